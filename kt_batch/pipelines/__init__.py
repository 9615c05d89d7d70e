"""What a person starts, as plan -> unit work -> finish; scheduling is handed in."""
