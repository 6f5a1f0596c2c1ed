"""Classifies images with the network in this folder: python predict.py IMAGES.npy

IMAGES.npy holds uint8 (batch, height, width, channels). Beside model.onnx it needs
`pip install onnxruntime`, beside program.jax_export `pip install jax flatbuffers`.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).parent
MANIFEST = json.loads((FOLDER / 'manifest.json').read_text())
for name, digest in MANIFEST['sha256'].items():
    try:
        content = (FOLDER / name).read_bytes()
    except OSError as error:
        sys.exit(f'{FOLDER / name}: cannot be read: {error.strerror}; export again')
    if hashlib.sha256(content).hexdigest() != digest:
        sys.exit(f'{name}: damaged, not the file that was exported; export again')

_, *shape = MANIFEST['input']['shape']
NEEDED = ', '.join(map(str, shape))
if len(sys.argv) != 2:
    sys.exit(f'{__doc__}\nHere height, width and channels are {shape}.')
if not sys.argv[1].endswith('.npy'):
    sys.exit(
        f'{sys.argv[1]}: not a .npy file; save images with numpy.save, uint8 (batch, {NEEDED})'
    )
try:
    images = np.load(sys.argv[1], allow_pickle=False)
except (OSError, ValueError, EOFError) as error:
    sys.exit(f'{sys.argv[1]}: cannot be read: {getattr(error, "strerror", None) or error}')
if images.dtype != np.uint8 or [*images.shape[1:]] != shape or not len(images):
    sys.exit(f'{sys.argv[1]}: {images.dtype} {images.shape}; needed is uint8 (batch, {NEEDED})')
if 'model.onnx' in MANIFEST['sha256']:
    import onnxruntime

    session = onnxruntime.InferenceSession(FOLDER / 'model.onnx')
    (predictions,) = session.run(['probabilities'], {'images': images})
else:
    from jax import export

    program = export.deserialize(bytearray((FOLDER / 'program.jax_export').read_bytes()))
    weights = dict(np.load(FOLDER / 'weights.npz', allow_pickle=False))
    predictions = np.asarray(program.call(weights, images))
for probabilities in predictions:
    label = MANIFEST['classes'][probabilities.argmax()]
    print(f'{probabilities.max():.4f} {label!a}')
