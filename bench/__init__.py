"""Speed and memory, beside other libraries where there are any; each run as `python -m bench.NAME`."""
