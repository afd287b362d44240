"""Checkpoints of earlier versions stay readable."""

import torch

from detector.training.checkpoint import read_checkpoint


def test_a_switch_that_is_gone_is_left_out_of_the_configuration(tmp_path):
    config = {"seed": 1, "trainer": {"fused": True, "compile": False}}
    ours = {"config": config, "classes": {"names": ["tree"], "ids": [1]}}
    torch.save({"detector": ours}, tmp_path / "best.ckpt")
    found = read_checkpoint(tmp_path / "best.ckpt")["config"]
    assert found == {"seed": 1, "trainer": {"compile": False}}
