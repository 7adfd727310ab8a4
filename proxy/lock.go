package proxy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lockPoll is how often a lock that another process has is tried.
const lockPoll = 50 * time.Millisecond

// acquire takes the lock of the given name among this person's ssmproxy processes,
// and waits for it until ctx ends. It ends with the process at the latest. The
// AWS CLI knows nothing of it, nor does it lock anything itself.
func acquire(ctx context.Context, name string) (release func(), err error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "ssmproxy")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		locked, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if locked {
			return func() { f.Close() }, nil // which gives it back
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		}
	}
}
