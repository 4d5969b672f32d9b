"""The demo: three hosts on one switch, a real file, and an attacker."""
