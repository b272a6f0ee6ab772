// Package interop holds the tests that drive tunnel-server and tunnel-agent
// with the kube-apiserver's own dialling code. It has no code of its own;
// everything is in the test files and in the packages below this one.
package interop
