-- Tenants declare profiles of their own: the wall of the table that keeps them.

-- +goose Up

SELECT wall('profile', 'scope = {near}', 'SELECT, INSERT', 'scope = {mine}');
