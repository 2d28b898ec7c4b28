// Package tig stands for the package of that name in nerdctl's test helpers: its command compiles one of them in, and never runs it.
package tig

// T is what they ask of a test.
type T interface {
	Helper()
	FailNow()
	Log(args ...any)
	TempDir() string
}
