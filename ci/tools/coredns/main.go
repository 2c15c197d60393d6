// The DNS server of a cluster with the plugins that its Corefile names and no others: cloud providers, other stores and
// upstream protocols stay out, which halves what has to be compiled. Everything it does is CoreDNS's own code.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which plugins see a query; it is CoreDNS's own (plugin.cfg), shortened.
	dnsserver.Directives = []string{
		"reload", "ready", "health", "errors", "log", "cache", "rewrite", "loadbalance", "template", "hosts", "kubernetes", "forward",
	}
	coremain.Run()
}
