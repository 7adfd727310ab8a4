// Command demo shows ssmproxy at work with no AWS account: it runs a Session
// Manager, an agent and an SSH server on loopback, and the machine's own ssh,
// scp and sftp through the real binary. install.sh --demo builds and starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	dir := flag.String("dir", "", "a temporary `directory` that holds the ssmproxy binary; removed at the end")
	serve := flag.Bool("serve", false, "stay up afterwards, to connect from another terminal")
	flag.Parse()
	if _, err := os.Stat(filepath.Join(*dir, "ssmproxy")); *dir == "" || err != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "demo: this is for install.sh --demo to start")
		os.Exit(2)
	}

	// Whatever ends the demo, what it made is removed first.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, *dir, *serve)
	interrupted := ctx.Err() != nil
	stop()
	if rmErr := os.RemoveAll(*dir); rmErr != nil {
		err = errors.Join(err, rmErr)
	}
	switch {
	case err != nil && interrupted:
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run sets the stage, walks through the steps, and takes everything down again.
func run(ctx context.Context, dir string, serve bool) error {
	out := newScreen(os.Stdout)
	s, err := newStage(dir)
	if err != nil {
		return err
	}
	err = func() error {
		out.intro()
		if err := walk(ctx, s, out); err != nil {
			return err
		}
		if err := out.config(ctx, s.binary); err != nil {
			return err
		}
		if serve {
			out.serving(s)
			<-ctx.Done()
		}
		return nil
	}()
	return errors.Join(err, s.close())
}
