"""`make test-compilers`: what compilers that have no device here make of every shader variant."""
