package cluster

import (
	"maps"
	"path/filepath"
	"slices"
)

// args are the server's settings, on its command line so that the data directory holds none that a later version of this
// program would have to change.
func (c *Cluster) args() []string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": c.paths.serverSocket,
		"unix_socket_permissions": "0700",
		"cluster_name":            "segl",
		"max_connections":         "60",
		"shared_buffers":          "64MB",
		"work_mem":                "4MB",
		"maintenance_work_mem":    "32MB",
		"max_wal_size":            "512MB",
		"min_wal_size":            "64MB",
		"checkpoint_timeout":      "15min",
		"huge_pages":              "off",
		"jit":                     "off", // short statements only
		"update_process_title":    "off",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"log_line_prefix":         "%m [%p] ",
		"log_timezone":            "UTC",
		"timezone":                "UTC",
		"password_encryption":     "scram-sha-256",
	}
	if c.cfg.Test {
		maps.Copy(settings, map[string]string{
			"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "shared_buffers": "32MB",
			"max_wal_senders": "0", "wal_level": "minimal",
		})
	}
	maps.Copy(settings, c.cfg.Settings)
	args := []string{"-D", filepath.Join(c.paths.serverDir, "data")}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}
