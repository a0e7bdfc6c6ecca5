package main

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// trust writes files that trust the daily CA, an emergency CA, neither or both.
func (w pkiWriter) trust(daily, between, other holder) {
	emergency := w.authority("emergency", holder{})
	below := w.authority("emergency-between", emergency)
	w.certs("emergency.pem", emergency.cert)
	w.certs("client-ca-both.pem", emergency.cert, other.cert, between.cert)
	w.certs("client-ca-below.pem", below.cert, emergency.cert)
	pemOf := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	sshOf := func(h holder) []byte {
		key, err := ssh.NewPublicKey(h.key.Public())
		w.must(err)
		return ssh.MarshalAuthorizedKey(key)
	}
	lines := func(parts ...any) []byte { return fmt.Append(nil, parts...) }
	w.write("emergency.pub", sshOf(emergency))
	w.write("user-ca", lines("# emergency\n", string(sshOf(emergency)), "\n"))
	w.write("user-ca-daily", lines(string(sshOf(emergency)), "cert-authority,principals=\"root\" ", string(sshOf(daily))))
	w.write("known-hosts", lines("@cert-authority *.test ", string(sshOf(other))))
	w.write("user-ca-odd", lines(string(sshOf(emergency)), "ssh-ed25519 AAAA\n"))
	b64 := base64.StdEncoding.EncodeToString
	kubeconfig := func(cluster string) []byte {
		return lines("apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: https://192.0.2.1\n    ", cluster, "\nusers:\n- name: u\n  user:\n    client-certificate-data: ",
			b64(pemOf(below.cert)), "\n")
	}
	w.write("kubeconfig", kubeconfig("certificate-authority-data: "+b64(pemOf(emergency.cert))))
	w.write("kubeconfig-daily", kubeconfig("certificate-authority: between.pem"))
	w.write("kubeconfig-lost", kubeconfig("certificate-authority: nowhere.pem"))
	w.write("teleport.yaml", lines("kind: cert_authority\nversion: v2\nspec:\n  active_keys:\n    ssh:\n    - public_key: ", b64(bytes.TrimSpace(sshOf(other))),
		"\n    tls:\n    - cert: ", b64(pemOf(other.cert)), "\n---\nkind: cert_authority\nversion: v2\nspec:\n  active_keys:\n    tls:\n    - cert: ", b64(pemOf(below.cert)), "\n"))
	w.write("segl.yaml", lines("site: 1\ntrust_domain: segl.test\npassphrase_file: /p\ndatabase: {url: postgres://x}\nbreak_glass:\n- name: oob\n  certificate: ",
		sum(emergency.cert.Raw), "\n  key: ", sum(emergency.cert.RawSubjectPublicKeyInfo), "\n"))
}
