package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Process is one started program. It is only ever signalled through its own
// handle.
type Process struct {
	Name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // valid once exited is closed
}

// BinDir is where the programs under test are.
func BinDir() string {
	if dir := os.Getenv("TUNNEL_BIN_DIR"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "target", "release")
}

// CheckBinaries says how to build what is missing.
func CheckBinaries() error {
	for _, name := range []string{"tunnel-server", "tunnel-agent"} {
		path := filepath.Join(BinDir(), name)
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("no program %s: build it with `cargo build --release -p tunnel-server -p tunnel-agent` at the top of the repository, or set TUNNEL_BIN_DIR", path)
		}
	}
	return nil
}

func startProcess(dir, binary string, args []string) (*Process, error) {
	if err := CheckBinaries(); err != nil {
		return nil, err
	}
	log := filepath.Join(dir, binary+".log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own copy
	path, err := filepath.Abs(filepath.Join(BinDir(), binary))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// A test binary that panics or times out runs no cleanup; the kernel then
	// ends the programs.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &Process{Name: binary, cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Pid is the process id, for reading /proc.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the program at once, as a power cut would, and reaps it.
func (p *Process) Kill() {
	// The only possible error is that it has already ended.
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Alive returns an error that carries the log once the program has ended.
func (p *Process) Alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended (%v):\n%s", p.Name, p.err, p.LogTail())
	default:
		return nil
	}
}

// logTailBytes is enough for the story of one failure, and little enough to
// read in a CI page.
const logTailBytes = 12 << 10

// LogTail returns the end of what the program printed.
func (p *Process) LogTail() string {
	all, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	if len(all) > logTailBytes {
		all = all[len(all)-logTailBytes:]
		if i := bytes.IndexByte(all, '\n'); i >= 0 {
			all = all[i+1:]
		}
	}
	return string(all)
}

// OpenFiles counts the descriptors the program holds: the truest leak gauge.
func (p *Process) OpenFiles() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	return len(entries), err
}
