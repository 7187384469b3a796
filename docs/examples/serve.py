"""Serve a network over HTTP with LitServe, without googlenet_fast.

googlenet-fast export best.pt model.onnx --with-preprocessing
pip install litserve python-multipart onnxruntime pillow
python serve.py model.onnx
curl -F image=@photo.jpg http://127.0.0.1:8000/predict
"""

import argparse
import json
import signal
from typing import Any

import litserve as ls
import numpy as np
import onnxruntime
from fastapi import HTTPException, Request
from PIL import Image, ImageOps

TOP = 5


class Classify(ls.LitAPI):
    """Names what a photo shows; requests that come together are computed together."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    def setup(self, device: str) -> None:
        """Load the model; its metadata says how images are resized and what classes are called."""
        self.session = onnxruntime.InferenceSession(self.model)
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.how = {key: json.loads(value) for key, value in metadata.items()}

    def decode_request(self, request: Request) -> np.ndarray:
        """Return the central square of the photo in the field `image` of a form."""
        try:
            photo = ImageOps.exif_transpose(Image.open(request["image"].file)).convert("RGB")
        except (OSError, KeyError, AttributeError):
            raise HTTPException(400, "the field image must be a file of a photo") from None
        return central_square(photo, self.how)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return photos as one array (N, S, S, 3)."""
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities (N, classes)."""
        return self.session.run(None, {"images": x})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Return the probabilities of each photo."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Return the most likely classes."""
        names = self.how["class_names"]
        likely = np.argsort(-output)[:TOP].tolist()
        return {"classes": [{"name": names[i], "probability": float(output[i])} for i in likely]}


def central_square(photo: Image.Image, how: dict[str, Any]) -> np.ndarray:
    """Resize the short side of an RGB photo and cut the centre, as in training."""
    size, short = how["image_size"], min(photo.size)
    box = []
    for side in photo.size:
        if how["resize"] == "cv2":
            resized = round(side * how["resize_size"] / short)
            start = (resized - size) // 2
        else:
            resized = side * how["resize_size"] // short
            start = round((resized - size) / 2)
        box.append((start * side / resized, (start + size) * side / resized))
    (left, right), (top, bottom) = box
    area = (left, top, right, bottom)
    if how["resize"] == "cv2":  # without antialiasing
        method, bilinear = Image.Transform.EXTENT, Image.Resampling.BILINEAR
        return np.asarray(photo.transform((size, size), method, area, bilinear))
    return np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR, area))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="an .onnx file exported --with-preprocessing")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    api = Classify(options.model, max_batch_size=options.batch_size, batch_timeout=0.002)
    server = ls.LitServer(api, accelerator="cpu")
    # LitServe ends its processes on Ctrl-C alone; `kill` and containers send SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.run(port=options.port, generate_client_file=False)
