package sshserver

import (
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
)

// forward serves one direct-tcpip channel (RFC 4254 section 7.2): it connects
// to where the client asks and copies both ways until both have ended.
func forward(asked ssh.NewChannel) {
	var target struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(asked.ExtraData(), &target); err != nil {
		asked.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(target.Host, strconv.FormatUint(uint64(target.Port), 10)))
	if err != nil {
		asked.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}

	var watch, copies sync.WaitGroup
	watch.Go(func() {
		ssh.DiscardRequests(requests) // ends when the channel closes, from either side
		conn.Close()
	})
	copies.Go(func() {
		io.Copy(conn, channel)
		conn.(*net.TCPConn).CloseWrite()
	})
	copies.Go(func() {
		io.Copy(channel, conn)
		channel.CloseWrite()
	})
	copies.Wait()
	channel.Close()
	watch.Wait()
}
