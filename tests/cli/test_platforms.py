"""JAX's plugins of devices that are not on this machine."""

from mixer_dilated.cli import platforms


def test_a_plugin_whose_device_is_not_here_is_left_alone(monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', '')  # so that it is restored
    monkeypatch.delenv('JAX_PLATFORMS')
    monkeypatch.setattr(platforms.importlib.util, 'find_spec', lambda name: name == 'libtpu')
    for there in (True, False):
        monkeypatch.setattr(platforms, '_has_accelerator', lambda there=there: there)
        platforms.ignore_absent_accelerators()
        assert ('JAX_PLATFORMS' not in platforms.os.environ) == there
    monkeypatch.setenv('JAX_PLATFORMS', 'tpu')
    platforms.ignore_absent_accelerators()
    assert platforms.os.environ['JAX_PLATFORMS'] == 'tpu'
