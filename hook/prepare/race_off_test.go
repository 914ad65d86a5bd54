//go:build !race

package prepare_test

// everyNth is as in race_on_test.go.
const everyNth = 1
