// tarwriters writes a tree with archive/tar as container tools set its headers, and prints what archive/tar reads.
//
//	tarwriters write TOOL TREE > TAR
//	tarwriters read < TAR
package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "write":
		err = write(os.Args[2], os.Args[3])
	case len(os.Args) == 2 && os.Args[1] == "read":
		err = read()
	default:
		err = fmt.Errorf("usage: tarwriters write TOOL TREE | tarwriters read")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tarwriters:", err)
		os.Exit(1)
	}
}

// set changes a header made by FileInfoHeader as a tool does.
var set = map[string]func(*tar.Header){
	// docker's archive package up to the classic builder: whole seconds, file type bits in the mode.
	"docker": func(h *tar.Header) {
		h.Format = tar.FormatPAX
		h.ModTime = h.ModTime.Truncate(time.Second)
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		h.Mode |= typeBits(h.Typeflag)
	},
	// containerd's differ, which buildkit uses: nanoseconds, no names of owners.
	"buildkit": func(h *tar.Header) {
		h.Format = tar.FormatPAX
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		h.Uname, h.Gname = "", ""
	},
	// buildah by way of containers/storage: whole seconds, names of owners.
	"buildah": func(h *tar.Header) {
		h.Format = tar.FormatPAX
		h.ModTime = h.ModTime.Truncate(time.Second)
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	},
	// ko: nothing of the file but its name and bytes.
	"ko": func(h *tar.Header) {
		*h = tar.Header{Name: h.Name, Typeflag: h.Typeflag, Linkname: h.Linkname, Size: h.Size, Mode: 0o555,
			Devmajor: h.Devmajor, Devminor: h.Devminor, PAXRecords: h.PAXRecords}
	},
	// kaniko and others that leave the format open.
	"open": func(h *tar.Header) {
		h.Uname, h.Gname = "", ""
	},
	// GNU's format with both times.
	"gnu": func(h *tar.Header) {
		h.Format = tar.FormatGNU
		h.PAXRecords = nil
	},
}

func typeBits(flag byte) int64 {
	switch flag {
	case tar.TypeReg:
		return 0o100000
	case tar.TypeSymlink:
		return 0o120000
	case tar.TypeDir:
		return 0o040000
	case tar.TypeChar:
		return 0o020000
	case tar.TypeBlock:
		return 0o060000
	case tar.TypeFifo:
		return 0o010000
	}
	return 0
}

func write(tool, tree string) error {
	change, ok := set[tool]
	if !ok {
		return fmt.Errorf("no tool %q", tool)
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	tw := tar.NewWriter(out)
	seen := map[uint64]string{}
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		return add(tw, tree, path, entry, change, seen)
	})
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return out.Flush()
}

func add(tw *tar.Writer, tree, path string, entry fs.DirEntry, change func(*tar.Header), seen map[uint64]string) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = strings.TrimPrefix(path, tree+"/")
	if info.IsDir() {
		h.Name += "/"
	}
	stat := info.Sys().(*syscall.Stat_t)
	if h.Typeflag == tar.TypeReg && stat.Nlink > 1 {
		if first, ok := seen[stat.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		seen[stat.Ino] = h.Name
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		for _, name := range []string{"security.capability", "user.d4c", "user.binary"} {
			value := make([]byte, 256)
			if n, err := syscall.Getxattr(path, name, value); err == nil {
				if h.PAXRecords == nil {
					h.PAXRecords = map[string]string{}
				}
				h.PAXRecords["SCHILY.xattr."+name] = string(value[:n])
			}
		}
	}
	change(h)
	if err := tw.WriteHeader(h); err != nil {
		// Some formats cannot hold some members: the tools leave them out too.
		fmt.Fprintln(os.Stderr, "tarwriters: left out:", err)
		return nil
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(tw, file)
	return err
}

func text(s string) string { return "." + hex.EncodeToString([]byte(s)) }

func read() error {
	out := bufio.NewWriter(os.Stdout)
	tr := tar.NewReader(bufio.NewReaderSize(os.Stdin, 1<<20))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, tr); err != nil {
			return err
		}
		var xattrs []string
		for key, value := range h.PAXRecords {
			if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && h.Typeflag != tar.TypeXGlobalHeader {
				xattrs = append(xattrs, text(name)+"="+text(value))
			}
		}
		sort.Strings(xattrs)
		fmt.Fprintln(out, h.Typeflag, text(h.Name), text(h.Linkname), h.Mode, uint64(h.Uid), uint64(h.Gid), text(h.Uname),
			text(h.Gname), h.ModTime.Unix(), h.ModTime.Nanosecond(), uint64(h.Devmajor), uint64(h.Devminor), h.Size,
			hex.EncodeToString(sum.Sum(nil)), strings.Join(xattrs, ","))
	}
}
