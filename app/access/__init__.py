"""Who may do what: projects, the keys to them, roles, quotas."""
