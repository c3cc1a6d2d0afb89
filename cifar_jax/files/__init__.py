"""Files that other packages build on: downloads, checksums and pickles that execute nothing."""
