// Package acme is the domain of an ACME server: accounts, orders, authorizations, challenges and what may happen to them.
package acme
