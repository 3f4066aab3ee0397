"""`make test-long`: what takes minutes to hours. Not part of `make test`."""
