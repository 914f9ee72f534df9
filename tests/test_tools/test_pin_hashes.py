"""The sums in requirements/*.txt, and what tools/setup_env.sh hands to pip."""

import re
import subprocess

import pytest
from checkout import ROOT, load_tool

tool = load_tool('pin_hashes.py')
FILES = sorted((ROOT / 'requirements').glob('*.txt'))
STATED = [path for path in FILES if path.name not in tool.WITHOUT]


@pytest.mark.parametrize('path', STATED, ids=lambda path: path.name)
def test_every_pin_states_its_sums(path):
    text = path.read_text('utf-8')
    assert tool.pins_of(text) and tool.without_sums(text) == []
    sums = re.findall(r'--hash=(\S+)', text)
    assert len(set(sums)) == len(sums) and all(re.fullmatch(r'sha256:[0-9a-f]{64}', one) for one in sums)
    # pip takes a line that goes on before a comment, or a sum without its pin, for something else
    line = re.compile(r' {4}--hash=sha256:[0-9a-f]{64}( \\)?|[\w.-]+==\S+( ;.*)?( \\)?|#.*|')
    assert [found for found in text.splitlines() if not line.fullmatch(found)] == []
    after = re.findall(r'\\\n(?=(.*))', text)
    assert len(after) == len(sums) and all(found.startswith('    --hash=') for found in after)


def test_pytorch_states_none():
    """Which build of it is right is the user's choice."""
    assert tool.WITHOUT == ('torch.txt',) and '--hash' not in (ROOT / 'requirements/torch.txt').read_text()


TEXT = '# for x\na-b==1.0\nc==2 \\\n    --hash=sha256:old\n\n# end\n'


def test_sums_are_written_and_missing_ones_are_named():
    assert tool.without_sums(TEXT) == ['a-b']
    written = tool.write_sums(TEXT, {'a-b': ['1', '2'], 'c': ['3']})
    assert written == (
        '# for x\na-b==1.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nc==2 \\\n    --hash=sha256:3\n\n# end\n'
    )
    assert tool.without_sums(written) == [] and tool.write_sums(written, {'a-b': ['1', '2'], 'c': ['3']}) == written


@pytest.mark.parametrize(
    ('file', 'kept'),
    [
        ('x-1.tar.gz', True),
        ('x-1-py3-none-any.whl', True),
        ('x-1-py2.py3-none-any.whl', True),
        ('x-1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl', True),
        ('x-1-cp313-cp313-macosx_11_0_arm64.whl', True),
        ('x-1-cp39-abi3-manylinux_2_28_aarch64.whl', True),
        ('x-1-cp314-cp314-manylinux_2_28_x86_64.whl', False),
        ('x-1-cp314-abi3-manylinux_2_28_x86_64.whl', False),
        ('x-1-cp313-cp313t-manylinux_2_28_x86_64.whl', False),
        ('x-1-cp311-cp311-musllinux_1_2_x86_64.whl', False),
        ('x-1-cp311-cp311-win_amd64.whl', False),
        ('x-1-pp311-pypy311_pp73-manylinux_2_28_x86_64.whl', False),
    ],
)
def test_which_files_are_kept(file, kept):
    assert tool.is_kept(file) == kept


def test_a_lock_file_becomes_sums():
    wheel = {'url': 'https://x/a_b-1-py3-none-any.whl', 'hashes': {'sha256': '2'}}
    lock = {
        'packages': [
            {'name': 'A_b', 'wheels': [wheel], 'sdist': {'url': 'https://x/a_b-1.tar.gz', 'hashes': {'sha256': '1'}}}
        ]
    }
    assert tool.sums_of(lock) == {'a-b': ['1', '2']}


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab'])
def test_the_set_up_splits_a_family(stack):
    """mmcv, which has a step of its own, and the others; each pin with its sums, and none twice."""
    script = (ROOT / 'tools/setup_env.sh').read_text()
    functions = '\n'.join(re.findall(r'^(?:pin_of|only_mmcv|all_but_mmcv)\(\).*', script, re.M))

    def call(words):
        command = ['bash', '-c', f'{functions}\n{words}']
        return subprocess.run(
            command, cwd=ROOT, env={'STACK': stack, 'PATH': '/usr/bin:/bin'}, capture_output=True, text=True
        ).stdout

    whole = (ROOT / f'requirements/{stack}.txt').read_text()
    only, others = call('only_mmcv'), call('all_but_mmcv')
    assert sorted((only + others).splitlines()) == sorted(whole.splitlines())
    (name,) = tool.pins_of(only)
    assert name.endswith('mmcv') and len(tool.pins_of(others)) == 3
    assert tool.without_sums(only) == tool.without_sums(others) == []
    assert call('pin_of mmcv').strip() == only.split()[0] and len(call('pin_of .').split()) == 4
