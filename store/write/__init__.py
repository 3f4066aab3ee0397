"""Writing: one build of the index, from Arrow tables to a published DuckDB file or PostgreSQL schema."""
