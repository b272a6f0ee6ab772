// Command proxy-server is Konnectivity's server.
package main

import (
	"flag"
	"os"

	"k8s.io/klog/v2"
	"sigs.k8s.io/apiserver-network-proxy/cmd/server/app"
	"sigs.k8s.io/apiserver-network-proxy/cmd/server/app/options"
	"sigs.k8s.io/apiserver-network-proxy/pkg/util"
)

func main() {
	o := options.NewProxyRunOptions()
	command := app.NewProxyCommand(&app.Proxy{}, o)
	flags := command.Flags()
	flags.AddFlagSet(o.Flags())
	local := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	klog.InitFlags(local)
	local.VisitAll(func(each *flag.Flag) {
		each.Name = util.Normalize(each.Name)
		flags.AddGoFlag(each)
	})
	if err := command.Execute(); err != nil {
		klog.Exitf("error: %v", err)
	}
}
