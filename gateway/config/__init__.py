"""One TOML file into frozen structs; every fault reported at once."""
