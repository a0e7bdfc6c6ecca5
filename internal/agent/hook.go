package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hookTime bounds one hook.
const hookTime = 30 * time.Second

// Run runs a hook with further variables in its environment, each as KEY=value.
func (h Hook) Run(ctx context.Context, env ...string) error {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	switch {
	case h.Call != nil:
		return h.Call()
	case h.PIDFile != "":
		return h.signal()
	case h.Systemd != "":
		return command(ctx, env, "systemctl", "reload-or-restart", "--", h.Systemd)
	}
	return command(ctx, env, h.Command[0], h.Command[1:]...)
}

// RunHooks runs all of them, whatever becomes of each.
func RunHooks(ctx context.Context, hooks []Hook, env ...string) error {
	var all []error
	for i, h := range hooks {
		if err := h.Run(ctx, env...); err != nil {
			all = append(all, fmt.Errorf("hook %d: %w", i, err))
		}
	}
	return errors.Join(all...)
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.WaitDelay = append(os.Environ(), env...), time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		const most = 300
		return fmt.Errorf("running %s: %w: %.*s", name, err, most, out)
	}
	return nil
}

func (h Hook) signal() error {
	text, err := os.ReadFile(h.PIDFile)
	if err != nil {
		return fmt.Errorf("reading whom to signal: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 { // 1, 0 and what is below are more than a process
		return fmt.Errorf("reading whom to signal: %s holds no process id", h.PIDFile)
	}
	sig, err := ParseSignal(h.Signal)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	return nil
}
