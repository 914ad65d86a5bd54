//go:build race

package prepare_test

// everyNth of the longest tests' cases run under the race detector, which makes them several times as slow and has nothing to find
// in them: each is one thing after the other. A run without it has all.
const everyNth = 4
