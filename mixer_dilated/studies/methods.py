"""The methods that studies compare: those of the paper's Table 1, and the control it lacks."""

from mixer_dilated.studies.sweep import Trial


def _method(name: str, **patches: int) -> Trial:
    changes = {f'model.patches.{key}': value for key, value in patches.items()}
    return Trial({'method': name}, changes)


BASELINE = _method('baseline 4×4', size=4, dilation=1, stride=4)
DILATED = _method('dilated 4×4', size=4, dilation=2, stride=7)
PLAIN7 = _method('plain 7×7', size=7, dilation=1, stride=7)

TABLE1_METHODS = (BASELINE, DILATED, PLAIN7)
