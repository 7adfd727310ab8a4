package ssmtest

import (
	"encoding/binary"
	"iter"
	"sync"
)

// mailbox is a bounded queue of frames with one taker, who takes all that is
// there at once. It stands for a connection between two machines: putting
// blocks while the other end does not keep up. It copies frames into one
// buffer and allocates nothing once that has grown.
type mailbox struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     []byte // frames, each behind its length as a uint32
	limit   int    // bytes of buf beyond which putting waits
	taking  bool   // the taker has done with what it took, and waits
	sealed  bool   // nothing more goes in
	closed  bool   // nothing more comes out
}

func newMailbox(limit int) *mailbox {
	m := &mailbox{limit: limit}
	m.changed.L = &m.mu
	return m
}

// put adds a copy of frame, waiting while the mailbox is full. It reports
// whether the frame went in: not once the mailbox is sealed or closed.
func (m *mailbox) put(frame []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.buf) > m.limit && !m.sealed {
		m.changed.Wait()
	}
	return m.add(frame)
}

// putNow is put that never waits, for the few frames of the gateway's own.
func (m *mailbox) putNow(frame []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.add(frame)
}

func (m *mailbox) add(frame []byte) bool {
	if m.sealed {
		return false
	}
	if len(m.buf) == 0 {
		m.changed.Broadcast()
	}
	m.buf = binary.BigEndian.AppendUint32(m.buf, uint32(len(frame)))
	m.buf = append(m.buf, frame...)
	return true
}

// take waits for frames and returns them all, leaving spare's memory for the
// next ones. It returns false when the mailbox is closed, or sealed and empty.
func (m *mailbox) take(spare []byte) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taking = true
	if len(m.buf) == 0 {
		m.changed.Broadcast() // for those who wait in flush
	}
	for len(m.buf) == 0 && !m.sealed {
		m.changed.Wait()
	}
	if m.closed || len(m.buf) == 0 {
		return nil, false
	}
	batch := m.buf
	m.buf = spare[:0]
	m.taking = false
	if len(batch) > m.limit {
		m.changed.Broadcast()
	}
	return batch, true
}

// flush waits until all that was put has been taken and dealt with.
func (m *mailbox) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for (len(m.buf) > 0 || !m.taking) && !m.closed {
		m.changed.Wait()
	}
}

// seal lets the taker have what is there and nothing after it.
func (m *mailbox) seal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed = true
	m.changed.Broadcast()
}

// close throws away what is there and lets everyone go who waits.
func (m *mailbox) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed, m.closed = true, true
	m.buf = nil
	m.changed.Broadcast()
}

// frames iterates over what take returned.
func frames(batch []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(batch) > 0 {
			n := binary.BigEndian.Uint32(batch)
			frame := batch[4 : 4+n]
			batch = batch[4+n:]
			if !yield(frame) {
				return
			}
		}
	}
}
