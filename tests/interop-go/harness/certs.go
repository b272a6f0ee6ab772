package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// KeyPair names the PEM files of one certificate and its key.
type KeyPair struct{ Cert, Key string }

// PKI is the set of files one tunnel-server and its agents need. Frontend
// clients and agents are signed by two different CAs, as in a real cluster,
// so that a program which mixes them up fails here.
type PKI struct {
	FrontendCA string  // signs Server and Client
	Server     KeyPair // the frontend listener
	Client     KeyPair // the kube-apiserver
	ClusterCA  string  // signs Cluster and Agent
	Cluster    KeyPair // the agent listener
	Agent      KeyPair
}

// MakePKI writes a fresh PKI into dir. The agent's certificate proves both its
// node name and 127.0.0.1, because a strict server believes only proven
// identifiers.
func MakePKI(dir string) (*PKI, error) {
	frontend, err := newAuthority(dir, "frontend-ca")
	if err != nil {
		return nil, err
	}
	cluster, err := newAuthority(dir, "cluster-ca")
	if err != nil {
		return nil, err
	}
	pki := &PKI{FrontendCA: frontend.file, ClusterCA: cluster.file}
	leaves := []struct {
		out   *KeyPair
		ca    *authority
		file  string
		name  pkix.Name
		usage x509.ExtKeyUsage
	}{
		{&pki.Server, frontend, "server", pkix.Name{CommonName: "tunnel-server"}, x509.ExtKeyUsageServerAuth},
		{&pki.Client, frontend, "client", pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageClientAuth},
		{&pki.Cluster, cluster, "cluster", pkix.Name{CommonName: "tunnel-server"}, x509.ExtKeyUsageServerAuth},
		{&pki.Agent, cluster, "agent", pkix.Name{CommonName: "system:node:interop", Organization: []string{"system:nodes"}}, x509.ExtKeyUsageClientAuth},
	}
	for _, l := range leaves {
		if *l.out, err = l.ca.issue(dir, l.file, l.name, l.usage); err != nil {
			return nil, err
		}
	}
	return pki, nil
}

// ClientTLS is the configuration of a frontend client that is not the egress
// selector (which reads the files itself).
func (p *PKI) ClientTLS() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(p.Client.Cert, p.Client.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(p.FrontendCA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", p.FrontendCA)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "127.0.0.1"}, nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(dir, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: name})
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, name+".crt")
	return &authority{cert: cert, key: key, file: file}, writePEM(file, "CERTIFICATE", der)
}

func (a *authority) issue(dir, file string, name pkix.Name, usage x509.ExtKeyUsage) (KeyPair, error) {
	pair := KeyPair{Cert: filepath.Join(dir, file+".crt"), Key: filepath.Join(dir, file+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	t := template(name)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	t.DNSNames = []string{"localhost"}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return pair, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair, err
	}
	if err := writePEM(pair.Cert, "CERTIFICATE", der); err != nil {
		return pair, err
	}
	return pair, writePEM(pair.Key, "PRIVATE KEY", keyDER)
}

func template(name pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // the system has no randomness; no test can run
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      name,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
