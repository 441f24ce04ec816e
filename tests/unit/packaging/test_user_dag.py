# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The file that the type checker reads as a user's own is one that Airflow can read, too."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml
from airflow.sdk import DAG

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "tests" / "typing" / "user_dag.py"

pytestmark = pytest.mark.needs_retry_policy


def test_it_makes_a_dag():
    dag = runpy.run_path(str(FILE))["dag"]
    assert isinstance(dag, DAG)
    assert len(dag.tasks) == 15
    assert dag.task_dict["news"].downstream_task_ids == {"own_calls"}
    assert dag.task_dict["commit"].upstream_task_ids == {"files", "usage_files", "usage_table"}


def test_every_public_class_is_in_it():
    registry = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text())
    classes = {
        entry["module"].rpartition(".")[2] for section in registry.values() if isinstance(section, list) for entry in section
    }
    # These two the sensors make.
    classes -= {"LimioWaitTrigger", "LimitRailWaitTrigger"}
    source = FILE.read_text()
    assert [name for name in sorted(classes) if len(re.findall(rf"\b{name}\b", source)) < 2] == []
