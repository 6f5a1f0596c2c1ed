"""The command `plan`: parse, call, print."""

import sys
from types import SimpleNamespace

from ml_collections import ConfigDict

from mixer_dilated.cli import preemption
from mixer_dilated.cli.commands import write_json_output
from mixer_dilated.cli.config_files import SHIPPED, load_configs
from mixer_dilated.errors import UserError
from mixer_dilated.files import check_output


def plan(arguments: SimpleNamespace, started: float) -> None:
    """Prints what configs ask of devices, and writes it; of several configs a line each."""
    if arguments.against not in (None, 'measured'):
        raise UserError(f'--against={arguments.against}: allowed is measured; or leave it out')
    paths = arguments.config or sorted(map(str, SHIPPED.glob('*.py')))
    configs = load_configs(paths, arguments.overrides)
    if arguments.json:
        check_output('json', arguments.json)
    from mixer_dilated.planning.plan import plan_run
    from mixer_dilated.reports.tables.plan_table import print_plan, print_plans

    setups = {name: _setups(config, arguments) for name, config in configs.items()}
    is_one, plans = len(configs) == 1, {name: [] for name in configs}
    for name, of_config in setups.items():
        for setup, devices in of_config:
            if devices.kind != 'this':
                preemption.raise_interrupt()  # ends the compiler's process
            measured = arguments.against is not None
            plans[name].append(plan_run(setup, devices, _report, measured=measured, search=is_one))
            if is_one:
                print('\n' * (len(plans[name]) > 1), end='')
                print_plan(name, plans[name][-1])
    if not is_one:
        print_plans(plans)
    if arguments.json:
        contents = [
            {'name': name, 'config': config.to_dict(), 'plans': plans[name]}
            for name, config in configs.items()
        ]
        write_json_output(arguments.json, contents[0] if is_one else contents)


def _setups(config: ConfigDict, arguments: SimpleNamespace) -> list[tuple]:
    """(setup, devices) for each word of --devices, or else of config.devices."""
    from mixer_dilated.config import changed
    from mixer_dilated.data.dataset_facts import abstract_dataset
    from mixer_dilated.parallel.mesh import mesh_sizes
    from mixer_dilated.planning.compiler import check_compiler
    from mixer_dilated.planning.devices import parse_devices
    from mixer_dilated.training.setup import create_setup

    words = arguments.devices or config.devices
    if not words:
        raise UserError(
            '--devices is missing, and config.devices names none; for example --devices=v5e:1'
        )
    dataset, setups = abstract_dataset(config.dataset), []
    for devices in map(parse_devices, words.split(',')):
        if arguments.against and devices.kind != 'this':
            raise UserError(
                f'--against=measured: a step is timed on this machine alone, not on '
                f'{devices.word}; add --devices=this'
            )
        _, data, _ = mesh_sizes(config, devices.count)
        batch = (arguments.batch_per_device or 0) * data or config.batch
        setups.append((create_setup(changed(config, {'batch': batch}), dataset), devices))
        check_compiler(devices)
    return setups


def _report(text: str) -> None:
    """Says on a terminal what is compiled, which may take minutes."""
    if sys.stderr.isatty():
        print(f'compiles for {text} …', file=sys.stderr)
