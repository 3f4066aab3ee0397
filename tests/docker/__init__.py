"""`make docker-test`: the containers really run. See `__main__`."""
