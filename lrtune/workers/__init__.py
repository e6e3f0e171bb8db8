"""Worker processes: started, watched, ended; leases and signals."""
