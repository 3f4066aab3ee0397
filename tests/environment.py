"""Tests take no setting from the shell: they would write into the database that it names, or into the folders
of `data/`. Imported before anything of Lexiscope; processes that tests start, those of pytest-xdist among
them, inherit what is set here.
"""

import atexit
import os
import shutil
import tempfile

FOR_TESTS = "LEXISCOPE_FOREIGN_CASES"
"""which tests/lexiscope/test_foreign.py reads"""
FOLDER = "FOLDER_OF_LEXISCOPE_TESTS"
"""holds the folders of the settings; the process that made it removes it"""

if FOLDER not in os.environ:
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="lexiscope-tests-")
    atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("LEXISCOPE_") and name != FOR_TESTS]:
    del os.environ[_name]
for _name in ("index", "runs", "lenses", "tables", "studies"):
    os.environ[f"LEXISCOPE_{_name.upper()}"] = os.path.join(os.environ[FOLDER], _name)
os.environ["HF_HUB_OFFLINE"] = "1"
