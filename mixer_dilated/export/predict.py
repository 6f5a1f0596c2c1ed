"""Classifies images with the network in this folder: python predict.py IMAGES.npy

IMAGES.npy holds uint8 (batch, height, width, channels). Needs: pip install jax flatbuffers
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
from jax import export

FOLDER = pathlib.Path(__file__).parent
MANIFEST = json.loads((FOLDER / 'manifest.json').read_text())
for name, digest in MANIFEST['sha256'].items():
    with open(FOLDER / name, 'rb') as file:
        if hashlib.file_digest(file, 'sha256').hexdigest() != digest:
            sys.exit(f'{name}: damaged, not the file that was exported; export again')

program = export.deserialize(bytearray((FOLDER / 'program.jax_export').read_bytes()))
weights = dict(np.load(FOLDER / 'weights.npz', allow_pickle=False))
images = np.load(sys.argv[1], allow_pickle=False)
for probabilities in np.asarray(program.call(weights, images)):
    label = MANIFEST['classes'][probabilities.argmax()]
    print(f'{probabilities.max():.4f} {label!a}')
