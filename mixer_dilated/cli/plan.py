"""The command `plan`: parse, call, print."""

import json
import sys

from mixer_dilated.cli import preemption
from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.cli.commands import required
from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, check_output


def plan(arguments: Arguments, started: float) -> None:
    """Prints what a config asks of devices, and writes it."""
    config = required(arguments, 'config')
    words = required(arguments, 'devices').split(',')
    if arguments.against not in (None, 'measured'):
        raise UserError(f'--against={arguments.against}: allowed is measured; or leave it out')
    if arguments.json:
        check_output('json', arguments.json)
    from mixer_dilated.config import changed
    from mixer_dilated.parallel.mesh import mesh_sizes
    from mixer_dilated.planning.dataset_facts import abstract_dataset
    from mixer_dilated.planning.devices import parse_devices
    from mixer_dilated.reports.plan_table import print_plan
    from mixer_dilated.training.setup import create_setup

    asked = [parse_devices(word) for word in words]
    for devices in asked:
        if arguments.against and devices.kind != 'this':
            raise UserError(
                f'--against=measured: a step is timed on this machine alone, not on '
                f'{devices.word}; add --devices=this'
            )
    dataset, plans = abstract_dataset(config.dataset), []
    for devices in asked:
        _, data, _ = mesh_sizes(config, devices.count)
        batch = (arguments.batch_per_device or 0) * data or config.batch
        setup = create_setup(changed(config, {'batch': batch}), dataset)
        plans.append(_plan(setup, devices, bool(arguments.against)))
        print('\n' * (len(plans) > 1), end='')
        print_plan(arguments.name, plans[-1])
    if arguments.json:
        content = {'name': arguments.name, 'config': config.to_dict(), 'plans': plans}
        with AtomicFile(arguments.json, 'json') as output:
            output.write((json.dumps(content, indent=2) + '\n').encode())
        print(f'\njson: {arguments.json}')


def _plan(setup, devices, measured: bool) -> dict:
    from mixer_dilated.planning import plan as planning
    from mixer_dilated.planning.compiler import PROGRAMS, compile_absent
    from mixer_dilated.planning.devices import HARDWARE

    if devices.kind == 'this':
        from mixer_dilated.planning.programs import compile_programs
        from mixer_dilated.planning.this_machine import measured_step, this_machine

        array_bytes = 4 * setup.config.batch * setup.num_tokens * setup.config.model.hidden_dim
        hardware = this_machine(setup.config.dtype, array_bytes)
    else:
        hardware = HARDWARE[devices.kind]
        preemption.raise_interrupt()  # ends the compiler's process

    def compile_(setup, programs):
        if devices.kind == 'this':
            return compile_programs(setup, devices, programs, hardware)
        return compile_absent(devices, setup, programs, _report)

    plan = planning.make_plan(setup, devices, hardware, compile_(setup, PROGRAMS))
    if measured:
        plan['measured_step'] = measured_step(setup, plan['step_seconds'])
    plan['largest_batch'] = planning.find_largest_batch(setup, plan, compile_)
    if not plan['fits']:
        changes = planning.changes_that_help(setup, plan, devices, hardware, compile_)
        plan['changes'] = changes
    return plan


def _report(text: str) -> None:
    """Says on a terminal what is compiled, which may take minutes."""
    if sys.stderr.isatty():
        print(f'compiles for {text} …', file=sys.stderr)
