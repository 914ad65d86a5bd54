// Package scripts reads the hook scripts that people have for libvirt, and says what of them qemu-hook does by itself, what
// of them its configuration can say, and what it did not understand.
//
// It is no shell. It cuts a script into commands, knows variables that are assigned in it or in a file that it sources,
// follows calls of other scripts, and tells by comparisons of the arguments for which guest and when a line is run. What the
// list of rules recognises it speaks of; everything else is named with file and line, and never guessed.
package scripts
