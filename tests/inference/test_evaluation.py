"""Evaluation of a run: what is refused."""

import json

from mixer_dilated.inference.evaluation import evaluate_checkpoint
from tests.conftest import refuses, small_config


def test_evaluating_without_a_run_or_checkpoint_is_refused(tmp_path):
    with refuses(tmp_path / 'nothing', 'no run'):
        evaluate_checkpoint(tmp_path / 'nothing')
    (tmp_path / 'config.json').write_text(json.dumps(small_config().to_dict()))
    with refuses(tmp_path, 'no checkpoint'):
        evaluate_checkpoint(tmp_path)
    (tmp_path / 'config.json').write_text('{"seed":')
    with refuses(tmp_path / 'config.json', 'cannot be read'):
        evaluate_checkpoint(tmp_path)
