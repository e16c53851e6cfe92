"""A strict server of OpenAI's image routes, as in `openai-images.md`.

Each model family accepts its own parameters; every other parameter is refused with status 400.

server = OpenAIImages()
url = serve(server).url + "/v1"      # the key is "k"
...
assert server.jobs[-1]["size"] == "1024x1024"
assert image_color == color({"model": "gpt-image-1.5", "prompt": "a red fox"})
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from tests.servers.hashed_images import (
    Color,
    b64,
    decode_image,
    encode_image,
    fingerprint,
    hash_color,
    repaint_masked,
    solid_image,
)
from tests.servers.http_helpers import (
    STREAMED,
    Gate,
    Part,
    Response,
    json_response,
    parse_form,
    route,
)
from tests.support.loopback import Peer, ReceivedRequest

GPT_SIZES = ("1024x1024", "1536x1024", "1024x1536")
MEGABYTE = 1 << 20
MAX_URL_LENGTH = 20_971_520
IMAGE_MIME_TYPES = ("image/jpeg", "image/png", "image/webp")


@dataclass(frozen=True)
class Family:
    """What a model accepts: the table "Per-model legality" of openai-images.md."""

    max_prompt_length: int
    """Maximum length of the prompt in characters."""
    sizes: Sequence[str]
    max_images: int = 10
    """Maximum number of images per request."""
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Accepted values by parameter."""
    other_parameters: frozenset[str] = frozenset()
    """Accepted parameters that are not text with fixed values."""
    supports_edits: bool = True
    """Whether the model accepts the edits route."""
    free_sizes: bool = False
    """Whether the model accepts every size that `_free_size` allows."""

    @property
    def is_gpt(self) -> bool:
        """Whether this is a gpt-image family; only these stream."""
        return "stream" in self.other_parameters


_GPT_VALUES: dict[str, Sequence[str]] = {
    "quality": ("auto", "low", "medium", "high"),
    "output_format": ("png", "jpeg", "webp"),
    "background": ("auto", "opaque", "transparent"),
    "moderation": ("auto", "low"),
}
_GPT_PARAMETERS = frozenset({"output_compression", "stream", "partial_images"})
_INPUT_FIDELITY: dict[str, Sequence[str]] = {"input_fidelity": ("high", "low")}
_RESPONSE_FORMATS: dict[str, Sequence[str]] = {"response_format": ("url", "b64_json")}
_GPT = Family(
    32000,
    ("auto", *GPT_SIZES),
    values=_GPT_VALUES | _INPUT_FIDELITY,
    other_parameters=_GPT_PARAMETERS,
)
_GPT_2 = replace(_GPT, free_sizes=True)
FAMILIES: dict[str, Family] = {
    "dall-e-2": Family(
        1000,
        ("256x256", "512x512", "1024x1024"),
        values={"quality": ("standard",)} | _RESPONSE_FORMATS,
    ),
    "dall-e-3": Family(
        4000,
        ("1024x1024", "1792x1024", "1024x1792"),
        1,
        {"quality": ("standard", "hd"), "style": ("vivid", "natural")} | _RESPONSE_FORMATS,
        supports_edits=False,
    ),
    "gpt-image-1": _GPT,
    "gpt-image-1-mini": replace(_GPT, values=_GPT_VALUES),
    "gpt-image-1.5": _GPT,
    "gpt-image-2": _GPT_2,
    "gpt-image-2-2026-04-21": _GPT_2,
}
COMMON_PARAMETERS = frozenset({"prompt", "model", "n", "size", "user"})
INTEGER_RANGES = {"n": (1, 10), "partial_images": (0, 3), "output_compression": (0, 100)}


def color(settings: Mapping[str, Any], index: int = 0, partial: int | None = None) -> Color:
    """Return the color of image `index` for these settings, or of its partial image.

    Settings that are absent or "auto" have the model's default. `images` are `fingerprint()`s of
    the uploads. A transparent image has this color in its center only; any other image has it
    everywhere except where a mask keeps the original.
    """
    dalle = str(settings.get("model", "")).startswith("dall-e")
    defaults: dict[str, Any] = {
        "prompt": "",
        "model": "",
        "size": "1024x1024",
        "quality": "standard" if dalle else "high",
        "background": None if dalle else "opaque",
        "style": "vivid" if settings.get("model") == "dall-e-3" else None,
        "input_fidelity": None,
        "images": [],
    }
    chosen = {name: settings[name] for name in defaults if settings.get(name) not in (None, "auto")}
    return hash_color(defaults | chosen | {"index": index, "partial": partial})


class Refused(Exception):
    """An error in OpenAI's shape."""

    def __init__(
        self,
        message: str,
        code: str | None,
        parameter: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        **fields: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": parameter, "code": code, **fields}


def _invalid_value(name: str, value: Any, legal: Iterable[str]) -> Refused:
    """Return the error for a value that is not among the supported ones."""
    values = ", ".join(f"'{item}'" for item in legal)
    return Refused(
        f"Invalid value: '{value}'. Supported values are: {values}.", "invalid_value", name
    )


@dataclass
class _ImageRequest:
    """A validated request."""

    settings: dict[str, Any]
    family: Family
    images: list[Image.Image] = field(default_factory=list)
    mask: Image.Image | None = None

    @property
    def is_edit(self) -> bool:
        """Whether the request edits images."""
        return bool(self.images)


class OpenAIImages(Gate):
    """A handler for `serve()`.

    `jobs` lists the settings of every valid request, `downloads` the requests for `url` images.
    `hold()` and `release()` delay the response, or the last event of a stream; `cancelled`
    counts the clients that disconnect meanwhile.

    Settings that tests change:

    * `families`: model families by model id; tests may add ids.
    * `files`: contents of uploaded files by id, for `file_id`.
    * `refused_words`, `refused_midway`: a prompt with such a word is refused at once, or in the
      middle of a stream.
    * `failures`: each of the next requests fails with one of these `(status, code)`.
    * `partials`: maximum number of partial images.
    * `ignore_stream`: answer with plain JSON although a stream was requested.
    * `cut_stream`: end a stream without a completed event.
    * `sentinel`: end a stream with [DONE].
    * `without`: keys that are left out of responses, for example "usage" or "data".
    * `empty_data`: respond without images.
    """

    def __init__(self, key: str = "k") -> None:
        super().__init__()
        self.key = key
        self.families = dict(FAMILIES)
        self.files: dict[str, bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.downloads: list[ReceivedRequest] = []
        self.refused_words = {"forbidden"}
        self.refused_midway = {"midway"}
        self.failures: list[tuple[int, str]] = []
        self.partials = 3
        self.without: set[str] = set()
        self.ignore_stream = self.cut_stream = self.sentinel = self.empty_data = False
        self._files_by_path: dict[str, bytes] = {}
        self._numbers = 0

    def expire_urls(self) -> None:
        """Expire the `url` images, as the real service does after an hour."""
        self._files_by_path.clear()

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            with self._changed:
                self._numbers += 1
                id_headers = {"x-request-id": f"req_{self._numbers:08x}"}
            try:
                response = self._answer(peer, request, id_headers)
            except Refused as refused:
                if refused.status == 429 and refused.error["code"] == "rate_limit_exceeded":
                    id_headers["Retry-After"] = "1"
                response = json_response({"error": refused.error}, refused.status)
            if response is None:
                return
            if response is STREAMED:
                continue
            peer.send(replace(response, headers=response.headers | id_headers).sent)

    def _answer(
        self, peer: Peer, http_request: ReceivedRequest, id_headers: dict[str, str]
    ) -> Response | None:
        """Return the answer, `STREAMED` after a stream, or None when the client disconnected."""
        path, _ = route(http_request)
        if path.startswith("/files/"):
            return self._download(http_request, path)
        scheme, _, key = http_request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or key != self.key:
            message = "Incorrect API key provided." if key else "You didn't provide an API key."
            raise Refused(message, "invalid_api_key", status=401)
        if http_request.method == "GET" and path == "/v1/models":
            models = [
                {"id": name, "object": "model", "created": 1, "owned_by": "openai"}
                for name in self.families
            ]
            return json_response({"object": "list", "data": models})
        if http_request.method != "POST" or path not in (
            "/v1/images/generations",
            "/v1/images/edits",
        ):
            raise Refused(f"Invalid URL ({http_request.method} {path})", None, status=404)
        if self.failures:
            raise self._failure(*self.failures.pop(0))
        request = self._read_request(http_request, path)
        with self._changed:
            self.jobs.append(request.settings)
        self._moderate(request)
        if request.settings["stream"] and not self.ignore_stream:
            return self._stream(peer, request, id_headers)
        if not self._wait(peer):
            return None
        return json_response(self._response_body(peer, request))

    def _failure(self, status: int, code: str) -> Refused:
        error_types = {
            "server_error": "server_error",
            "insufficient_quota": "insufficient_quota",
            "rate_limit_exceeded": "requests",
        }
        return Refused(
            f"This is a {code}.", code, None, status, error_types.get(code, "invalid_request_error")
        )

    def _download(self, request: ReceivedRequest, path: str) -> Response:
        """Serve an image from the file host.

        The real file host is a different one: it needs no key and refuses requests with one.
        """
        self.downloads.append(request)
        if "authorization" in request.headers:
            return Response(403, b"AuthenticationFailed", "application/xml")
        data = self._files_by_path.get(path)
        return (
            Response(200, data, "image/png")
            if data is not None
            else Response(404, b"BlobNotFound", "application/xml")
        )

    # Validation

    def _read_request(self, request: ReceivedRequest, path: str) -> _ImageRequest:
        content_type = request.headers.get("content-type", "")
        if content_type.startswith("multipart/form-data") and path == "/v1/images/edits":
            return self._read_form(content_type, request.body)
        if not content_type.startswith("application/json"):
            raise Refused(
                f"Unsupported content type: '{content_type}'.", "unsupported_content_type"
            )
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused("We could not parse the JSON body of your request.", None)
        if path == "/v1/images/generations":
            return self._validated(body, path, set())
        return self._read_json_edit(body, path)

    def _family(self, body: Mapping[str, Any], edit: bool) -> tuple[str, Family]:
        """Return the name and the family of the requested model.

        Without a model, edits use gpt-image-1.5; generations use gpt-image-1 when one of its
        parameters is present, and dall-e-2 otherwise.
        """
        name = body.get("model")
        if name is None:
            has_gpt_parameter = any(
                parameter in body
                for parameter in _GPT_PARAMETERS | {"background", "moderation", "output_format"}
            )
            name = "gpt-image-1.5" if edit else "gpt-image-1" if has_gpt_parameter else "dall-e-2"
        if not isinstance(name, str):
            raise Refused("Invalid type for 'model': expected a string.", "invalid_type", "model")
        if name not in self.families:
            raise Refused(
                f"The model '{name}' does not exist or you do not have access to it.",
                "model_not_found",
                "model",
                404,
            )
        return name, self.families[name]

    def _validated(
        self, body: Mapping[str, Any], path: str, images: set[str], multipart: bool = False
    ) -> _ImageRequest:
        """Validate the parameters; `images` names the fields that contain images."""
        edit = path == "/v1/images/edits"
        model, family = self._family(body, edit)
        if edit and not family.supports_edits:
            raise _invalid_value(
                "model",
                model,
                [name for name, other in self.families.items() if other.supports_edits],
            )
        allowed = COMMON_PARAMETERS | family.other_parameters | set(family.values) | images
        allowed -= {"input_fidelity"} if not edit else set()
        allowed -= {"moderation"} if edit and multipart else set()
        for name in body:
            if name not in allowed:
                raise Refused(f"Unknown parameter: '{name}'.", "unknown_parameter", name)
        parameters = {name: value for name, value in body.items() if value is not None}
        if not parameters.get("prompt"):
            raise Refused(
                "Missing required parameter: 'prompt'.", "missing_required_parameter", "prompt"
            )
        self._check_types(parameters)
        if len(parameters["prompt"]) > family.max_prompt_length:
            message = (
                "Invalid 'prompt': string too long. "
                f"Expected a string with maximum length {family.max_prompt_length}."
            )
            raise Refused(message, "string_above_max_length", "prompt")
        for name, legal in family.values.items():
            if name in parameters and parameters[name] not in legal:
                raise _invalid_value(name, parameters[name], legal)
        if (
            "size" in parameters
            and parameters["size"] not in family.sizes
            and not (family.free_sizes and _free_size(parameters["size"]))
        ):
            raise _invalid_value("size", parameters["size"], family.sizes)
        for name, (minimum, maximum) in INTEGER_RANGES.items():
            maximum = family.max_images if name == "n" else maximum
            if name in parameters and not minimum <= parameters[name] <= maximum:
                raise Refused(
                    f"Invalid '{name}': expected a value between {minimum} and {maximum}, "
                    f"but got {parameters[name]}.",
                    "invalid_value",
                    name,
                )
        self._check_formats(parameters)
        defaults = {
            "n": 1,
            "size": "1024x1024",
            "stream": False,
            "partial_images": 0,
            "output_format": "png",
        }
        return _ImageRequest(
            {"route": path, "model": model}
            | defaults
            | parameters
            | {"model": model, "images": [], "mask": None},
            family,
        )

    def _check_types(self, parameters: Mapping[str, Any]) -> None:
        for name, value in parameters.items():
            if name in INTEGER_RANGES and type(value) is not int:
                raise Refused(
                    f"Invalid type for '{name}': expected an integer.", "invalid_type", name
                )
            if name == "stream" and not isinstance(value, bool):
                raise Refused(
                    "Invalid type for 'stream': expected a boolean.", "invalid_type", name
                )
            if (
                name not in INTEGER_RANGES
                and name not in ("stream", "images", "mask")
                and not isinstance(value, str)
            ):
                raise Refused(
                    f"Invalid type for '{name}': expected a string.", "invalid_type", name
                )

    def _check_formats(self, parameters: Mapping[str, Any]) -> None:
        output_format = parameters.get("output_format", "png")
        if parameters.get("background") == "transparent" and output_format == "jpeg":
            raise _invalid_value("background", "transparent", ["auto", "opaque"])
        if parameters.get("output_compression", 100) < 100 and output_format == "png":
            message = "Compression less than 100 is not supported for PNG output format."
            raise Refused(message, "invalid_value", "output_compression")

    def _read_form(self, content_type: str, body: bytes) -> _ImageRequest:
        """Read a multipart edit: scalars are text, and every file needs an image content type."""
        try:
            parts = parse_form(content_type, body)
        except ValueError:
            raise Refused("Could not parse multipart form", None) from None
        fields: dict[str, Any] = {}
        for part in parts:
            if part.name not in ("image", "image[]", "mask"):
                fields[part.name] = _form_value(part.name, part.content.decode())
        request = self._validated(fields, "/v1/images/edits", set(), multipart=True)
        plain_files = [part for part in parts if part.name == "image"]
        if len(plain_files) > 1:
            message = (
                "Duplicate parameter: 'image'. Use the array syntax instead e.g. 'image[]=<value>'."
            )
            raise Refused(message, "duplicate_parameter", "image")
        files = plain_files + [part for part in parts if part.name == "image[]"]
        masks = [_image_content(part, "mask") for part in parts if part.name == "mask"]
        return self._with_images(
            request, [_image_content(part, "image") for part in files], masks[0] if masks else None
        )

    def _read_json_edit(self, body: dict[str, Any], path: str) -> _ImageRequest:
        """Read a JSON edit: `images` are data URLs or file ids; gpt-image only."""
        request = self._validated(body, path, {"images", "mask"})
        if not request.family.is_gpt:
            raise Refused(
                "This model takes edits as multipart/form-data.", "unsupported_content_type"
            )
        items = body.get("images")
        if not isinstance(items, list):
            raise Refused(
                "Missing required parameter: 'images'.", "missing_required_parameter", "images"
            )
        mask = body.get("mask")
        data = [self._load_reference(item, "images") for item in items]
        return self._with_images(
            request, data, self._load_reference(mask, "mask") if mask is not None else None
        )

    def _load_reference(self, item: Any, name: str) -> bytes:
        if not isinstance(item, dict) or len(item) != 1 or not {"image_url", "file_id"} & set(item):
            raise Refused(
                f"Invalid '{name}': expected exactly one of 'image_url' and 'file_id'.",
                "invalid_value",
                name,
            )
        if "file_id" in item:
            if item["file_id"] not in self.files:
                raise Refused(f"No such File object: {item['file_id']}", "invalid_value", name)
            return self.files[item["file_id"]]
        url = str(item["image_url"])
        match = re.match(r"data:(image/(?:png|jpeg|webp));base64,", url)
        if match is None or len(url) > MAX_URL_LENGTH:
            raise Refused(
                f"Invalid '{name}': could not read the image URL.", "invalid_image_url", name
            )
        try:
            return b64decode(url[match.end() :], validate=True)
        except NotBase64:
            raise Refused(f"Invalid '{name}': invalid base64.", "invalid_base64", name) from None

    def _with_images(
        self, request: _ImageRequest, files: list[bytes], mask: bytes | None
    ) -> _ImageRequest:
        max_images, max_bytes = (16, 50 * MEGABYTE) if request.family.is_gpt else (1, 4 * MEGABYTE)
        if not 1 <= len(files) <= max_images:
            raise Refused(
                f"Invalid 'image': expected 1 to {max_images} images, but got {len(files)}.",
                "invalid_value",
                "image",
            )
        for data in files:
            image = decode_image(data)
            if image is None or len(data) >= max_bytes:
                raise Refused(
                    "Invalid image file or mode for image 1, please check your image file.",
                    "invalid_image_file",
                    "image",
                )
            if not request.family.is_gpt and (image.format != "PNG" or image.width != image.height):
                raise Refused("Uploaded image must be a square PNG.", "invalid_image_file", "image")
            request.images.append(image)
        if mask is not None:
            request.mask = self._read_mask(mask, request.images[0])
        elif not request.family.is_gpt and "A" in request.images[0].getbands():
            request.mask = _editable_area(request.images[0])
        if request.settings["size"] == "auto":
            width, height = request.images[0].size
            request.settings["size"] = GPT_SIZES[
                0 if width == height else 1 if width > height else 2
            ]
        request.settings["images"] = [fingerprint(image) for image in request.images]
        request.settings["mask"] = fingerprint(request.mask) if request.mask is not None else None
        return request

    def _read_mask(self, data: bytes, image: Image.Image) -> Image.Image:
        """Return the editable area of a mask: white where the mask is transparent."""
        mask = decode_image(data)
        problem = None
        if mask is None or mask.format != "PNG" or len(data) >= 4 * MEGABYTE:
            problem = "mask is not a PNG of less than 4 MB"
        elif "A" not in mask.getbands():
            problem = "mask image missing alpha channel"
        elif mask.size != image.size:
            problem = "mask size does not match image size"
        if mask is None or problem:
            raise Refused(
                f"Invalid mask image format - {problem}", "invalid_mask_image_format", "mask"
            )
        return _editable_area(mask)

    def _moderate(self, request: _ImageRequest) -> None:
        if not self.refused_words & set(request.settings["prompt"].split()):
            return
        if not request.family.is_gpt:
            message = "Your request was rejected as a result of our safety system."
            raise Refused(message, "content_policy_violation")
        details = {"moderation_stage": "input", "categories": ["violence"]}
        raise Refused(
            _BLOCKED,
            "moderation_blocked",
            kind="image_generation_user_error",
            moderation_details=details,
        )

    # Images

    def _image(self, request: _ImageRequest, index: int, partial: int | None = None) -> bytes:
        width, height = _parse_size(request.settings["size"])
        image_color = color(request.settings, index, partial)
        image = solid_image(image_color, (width, height))
        if request.mask is not None:
            image = repaint_masked(request.images[0], image, request.mask)
        output_format = request.settings["output_format"]
        if request.settings.get("background") == "transparent":
            alpha = Image.new("L", (width, height), 0)
            alpha.paste(255, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
            image.putalpha(alpha)
        return encode_image(
            image, output_format, quality=request.settings.get("output_compression", 100)
        )

    def _response_body(self, peer: Peer, request: _ImageRequest) -> dict[str, Any]:
        settings = request.settings
        images = (
            []
            if self.empty_data
            else [self._image(request, index) for index in range(settings["n"])]
        )
        data = []
        for image in images:
            item = {"b64_json": b64(image)}
            if not request.family.is_gpt and settings.get("response_format", "url") == "url":
                with self._changed:
                    self._numbers += 1
                    path = f"/files/img-{self._numbers}.png"
                self._files_by_path[path] = image
                item = {"url": peer.server.url + path}
            if settings["model"] == "dall-e-3":
                item["revised_prompt"] = f"In detail: {settings['prompt']}"
            data.append(item)
        body: dict[str, Any] = {"created": 1713833628, "data": data}
        if request.family.is_gpt:
            body |= self._effective_settings(
                request, ("background", "output_format", "size", "quality")
            ) | {"usage": self._usage(request, 0)}
        return {name: value for name, value in body.items() if name not in self.without}

    def _effective_settings(self, request: _ImageRequest, names: Iterable[str]) -> dict[str, Any]:
        """Return these settings with the values that "auto" resolves to."""
        defaults = {"background": "opaque", "quality": "high", "size": "1024x1024"}
        return {
            name: request.settings[name]
            if request.settings.get(name, "auto") != "auto"
            else defaults[name]
            for name in names
        }

    def _usage(self, request: _ImageRequest, partials: int) -> dict[str, Any]:
        """Return predictable token counts; a partial image costs 100 tokens."""
        text_tokens, images = len(request.settings["prompt"].split()), 40 * len(request.images)
        output_tokens = 50 * request.settings["n"] + 100 * partials
        details = {"text_tokens": text_tokens, "image_tokens": images}
        return {
            "total_tokens": text_tokens + images + output_tokens,
            "input_tokens": text_tokens + images,
            "output_tokens": output_tokens,
            "input_tokens_details": details,
        }

    def _stream(
        self, peer: Peer, request: _ImageRequest, id_headers: dict[str, str]
    ) -> Response | None:
        """Send server-sent events; the `event:` line of each equals the type in its data."""
        peer.begin(headers=id_headers)
        for event in self._events(peer, request):
            if event is None:
                return None
            peer.chunk(event)
        peer.end()
        return STREAMED

    def _events(self, peer: Peer, request: _ImageRequest) -> Iterator[bytes | None]:
        """Yield the events; None when the client has disconnected."""
        name = "image_edit" if request.is_edit else "image_generation"
        settings = self._effective_settings(
            request, ("size", "quality", "background", "output_format")
        )
        count = min(request.settings["partial_images"], self.partials)
        for index in range(count):
            body = {
                "b64_json": b64(self._image(request, 0, index)),
                "partial_image_index": index,
                "created_at": 1620000000,
            }
            yield _event(f"{name}.partial_image", body | settings)
        if not self._wait(peer):
            yield None
            return
        if self.refused_midway & set(request.settings["prompt"].split()):
            error = {
                "type": "image_generation_user_error",
                "code": "moderation_blocked",
                "message": _BLOCKED,
                "param": None,
            }
            yield _event("error", {"error": error})
            return
        if self.cut_stream:
            return
        for index in range(request.settings["n"]):
            body = (
                {"b64_json": b64(self._image(request, index)), "created_at": 1620000000}
                | settings
                | {"usage": self._usage(request, count)}
            )
            yield _event(
                f"{name}.completed",
                {key: value for key, value in body.items() if key not in self.without},
            )
        if self.sentinel:
            yield b"data: [DONE]\n\n"


_BLOCKED = (
    "Your request was rejected by the safety system. "
    "If you believe this is an error, contact us at help.openai.com."
)


def _event(name: str, body: dict[str, Any]) -> bytes:
    data = json.dumps({"type": name} | body, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


def _parse_size(size: str) -> tuple[int, int]:
    width, _, height = ("1024x1024" if size == "auto" else size).partition("x")
    return int(width), int(height)


def _free_size(size: str) -> bool:
    """Return whether gpt-image-2 accepts the size.

    Both sides are multiples of 16, the ratio is 1:3 to 3:1, and 3840x2160 is the maximum.
    """
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
        return False
    width, height = _parse_size(size)
    longer, shorter = max(width, height), min(width, height)
    return (
        width % 16 == height % 16 == 0
        and longer <= 3 * shorter
        and longer <= 3840
        and shorter <= 2160
    )


def _form_value(name: str, text: str) -> Any:
    """Convert the text of a form field to the value that it represents."""
    if name in INTEGER_RANGES and re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if name == "stream" else text


def _image_content(part: Part, name: str) -> bytes:
    """Return the content of an uploaded image with a supported content type."""
    content_type = part.content_type if part.filename is not None else None
    if content_type not in IMAGE_MIME_TYPES:
        message = (
            f"Invalid file '{name}': "
            f"unsupported mimetype ('{content_type or 'application/octet-stream'}'). "
            "Supported file formats are 'image/jpeg', 'image/png', and 'image/webp'."
        )
        raise Refused(message, "unsupported_file_mimetype", name)
    return part.content


def _editable_area(image: Image.Image) -> Image.Image:
    """Return the inverted alpha channel: white where the image is transparent."""
    return image.getchannel("A").point(lambda level: 255 - level)
