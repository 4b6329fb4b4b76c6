// Holds memory of which it knows every word. A round looks at some of it, drops that and has new memory in its place, which
// the runtime must give out zeroed; now and then what was dropped goes back to the kernel (MADV_DONTNEED), and a program is
// run. Usage: checker PORT. "round" and "all" are answered with "ok N", or with what is wrong.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"sync"
)

const (
	blocks   = 512
	perRound = 8
	mean     = 16 << 10 // words: 128 KiB
)

type block struct {
	seed  uint64
	words []uint64
}

// Word number i of the stream seed (splitmix64).
func word(seed, i uint64) uint64 {
	z := seed + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func fresh(seed uint64) (*block, error) {
	b := &block{seed, make([]uint64, 1+word(seed, 0)%(2*mean))}
	for i, w := range b.words {
		if w != 0 {
			return nil, fmt.Errorf("new memory: word %d of %d is %x, not zero", i, len(b.words), w)
		}
		b.words[i] = word(seed, uint64(i))
	}
	return b, nil
}

func (b *block) check() error {
	for i, w := range b.words {
		if right := word(b.seed, uint64(i)); w != right {
			return fmt.Errorf("block %d: word %d of %d is %x, not %x", b.seed, i, len(b.words), w, right)
		}
	}
	return nil
}

type memory struct {
	blocks []*block
	rounds int
	seed   uint64
}

// Looks at so many blocks, each in a goroutine of its own, and puts a new one in its place.
func (m *memory) renew(first, count int) error {
	errs := make([]error, count)
	var all sync.WaitGroup
	for n := range errs {
		m.seed++
		all.Add(1)
		go func(place **block, seed uint64) {
			defer all.Done()
			if *place != nil {
				if errs[n] = (*place).check(); errs[n] != nil {
					return
				}
			}
			*place, errs[n] = fresh(seed)
		}(&m.blocks[(first+n)%blocks], m.seed)
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) round() error {
	m.rounds++
	// Not one after the other: the pager's background would always have been there.
	if err := m.renew(m.rounds*149%blocks, perRound); err != nil {
		return err
	}
	if m.rounds%4 == 0 {
		debug.FreeOSMemory()
	}
	if m.rounds%8 == 0 {
		return exec.Command("/bin/true").Run()
	}
	return nil
}

func (m *memory) all() error {
	for _, b := range m.blocks {
		if err := b.check(); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) answer(request string) error {
	switch request {
	case "round":
		return m.round()
	case "all":
		return m.all()
	}
	return fmt.Errorf("what is %q?", request)
}

func main() {
	m := &memory{blocks: make([]*block, blocks)}
	if err := m.renew(0, blocks); err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "0.0.0.0:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		peer, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		for lines := bufio.NewScanner(peer); lines.Scan(); {
			answer := "ok"
			if err := m.answer(lines.Text()); err != nil {
				answer = err.Error()
			}
			fmt.Printf("%s %d: %s\n", lines.Text(), m.rounds, answer)
			fmt.Fprintf(peer, "%s %d\n", answer, m.rounds)
		}
		peer.Close()
	}
}
