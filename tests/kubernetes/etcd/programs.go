//go:build programs

// Package programs names what the module is for, so that `go.mod` and `go.sum` stay whole.
package programs

import _ "go.etcd.io/etcd/server/v3"
