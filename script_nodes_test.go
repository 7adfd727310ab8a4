package main

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"ssmproxy/ssmstream/ssmtest"

	"github.com/rogpeppe/go-internal/testscript"
)

// The commands of scripts that concern the account's managed nodes, and the
// calls that were made. See TestScripts.

func changeNode(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: node ID FIELD=VALUE...")
	}
	w := *ts.Value(worldKey{}).(**world)
	n := ssmtest.Node{InstanceID: args[0], Tags: map[string]string{}}
	for _, arg := range args[1:] {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			ts.Fatalf("%s is no FIELD=VALUE", arg)
		}
		if field := reflect.ValueOf(&n).Elem().FieldByName(name); field.IsValid() && field.Kind() == reflect.String {
			field.SetString(value)
		} else {
			n.Tags[name] = value
		}
	}
	w.nodes[n.InstanceID] = n
	w.tellNodes()
}

func addNodes(ts *testscript.TestScript, _ bool, args []string) {
	count, err := strconv.Atoi(strings.Join(args, " "))
	ts.Check(err)
	w := *ts.Value(worldKey{}).(**world)
	for i := range count {
		id := fmt.Sprintf("i-0f1ee7%011d", i)
		w.nodes[id] = ssmtest.Node{InstanceID: id, ComputerName: fmt.Sprintf("fleet-%d", i), IPAddress: fmt.Sprintf("10.9.%d.%d", i/250, i%250)}
	}
	w.tellNodes()
}

func (w *world) tellNodes() {
	var nodes []ssmtest.Node
	for _, n := range w.nodes {
		nodes = append(nodes, n)
	}
	w.service.SetNodes(nodes...)
}

// callsOf reads the arguments ACTION N, and how often the action was called.
func callsOf(ts *testscript.TestScript, args []string) (action string, want int, count func() int) {
	if len(args) != 2 {
		ts.Fatalf("usage: called|await ACTION N")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	w := *ts.Value(worldKey{}).(**world)
	return args[0], want, func() int { return w.service.Stats().Calls[args[0]] }
}

func called(ts *testscript.TestScript, _ bool, args []string) {
	if action, want, count := callsOf(ts, args); count() != want {
		ts.Fatalf("%s was called %d times, want %d", action, count(), want)
	}
}

func awaitCalls(ts *testscript.TestScript, _ bool, args []string) {
	action, want, count := callsOf(ts, args)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for count() < want {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			ts.Fatalf("%s was called %d times in a minute, want %d", action, count(), want)
		}
	}
}
