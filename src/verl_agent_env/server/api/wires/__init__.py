"""The wires that other projects' clients speak, each a translation onto the API's own operations."""
