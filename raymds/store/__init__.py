"""Where bytes lie: one language of URIs for local disks and object stores."""
