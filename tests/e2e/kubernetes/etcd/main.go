// Command etcd is the store of a control plane that kubeadm makes, in the version that this kubeadm expects.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
