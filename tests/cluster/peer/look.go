package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What the kernel shows of itself has no end: a process's root is in it again.
var kernels = []string{"proc", "sys", "dev"}

// search looks through all that this container can read: its files, and the environment and the root of each process
// that it can see. It prints where a text was found, and how many files it could read at all.
func search(texts []string) {
	found, read := []string{}, 0
	visit := func(path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			return
		}
		read++
		for _, text := range texts {
			if bytes.Contains(content, []byte(text)) {
				found = append(found, path)
			}
		}
	}
	walk := func(root string) {
		filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil
			case entry.IsDir() && slices.Contains(kernels, strings.TrimPrefix(path, root)):
				return fs.SkipDir
			case entry.Type().IsRegular():
				visit(path)
			}
			return nil
		})
	}
	walk("/")
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		// This program's own arguments hold the texts; its environment and its root are the container's.
		visit(process + "/environ")
		walk(process + "/root/")
	}
	say(map[string]any{"found": found, "read": read, "processes": len(processes)})
}

// write tries to create files, and prints the causes of those that it could not.
func write(paths []string) {
	refused := map[string]string{}
	for _, path := range paths {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			refused[path] = err.Error()
			continue
		}
		file.Close()
		os.Remove(path)
	}
	say(map[string]any{"refused": refused, "tried": len(paths)})
}
