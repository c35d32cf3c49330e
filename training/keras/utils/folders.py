"""Reads folders of images, texts and audio clips as data sets of batches."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from flaxmodels.extras import require_extra
from training.keras import config
from training.keras.utils.audio import read_wav
from training.keras.utils.batches import Dataset, check_positive, map_ahead, stack
from training.keras.utils.images import MODES, load_img
from training.keras.utils.resampling import INTERPOLATIONS, resize

Labels: TypeAlias = str | Sequence[int] | None
Folder: TypeAlias = str | os.PathLike[str]

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
SUBSETS = ("training", "validation", "both")


class FolderDataset(Dataset):
    """The batches of a folder's files.

    Attributes:
        class_names: The names of the classes, None without labels.
        file_paths: The files, in the order of the batches if these are not shuffled.

    Args:
        file_paths: The files.
        labels: The label of each file, or None.
        load: Returns the example of a file.
        collate: Makes a batch of examples.
        batch_size: Examples in a batch; None yields single examples.
        seed: The seed of the order of each pass, or None to keep the order.
        class_names: The names of the classes.
    """

    def __init__(
        self,
        file_paths: list[str],
        labels: np.ndarray | None,
        load: Callable[[str], Any],
        collate: Callable[[tuple[Any, ...]], Any],
        batch_size: int | None,
        seed: int | None,
        class_names: list[str] | None,
    ):
        self.file_paths, self.class_names = file_paths, class_names
        self._labels, self._load, self._collate, self._seed = labels, load, collate, seed
        super().__init__(self._read_pass, -(-len(file_paths) // (batch_size or 1)), batch_size)

    def _read_pass(self, pass_index: int) -> Iterator[Any]:
        rows = np.arange(len(self.file_paths))
        if self._seed is not None:
            rows = np.random.default_rng([self._seed, pass_index]).permutation(rows)
        examples = map_ahead(lambda row: self._load(self.file_paths[row]), iter(rows), -1)
        size = self.batch_size or 1
        for start in range(0, len(rows), size):
            taken = rows[start : start + size]
            batch = tuple(next(examples) for _ in taken)
            x = batch[0] if self.batch_size is None else self._collate(batch)
            labels = self._labels
            if labels is None:
                yield x
            else:
                yield x, labels[taken[0]] if self.batch_size is None else labels[taken]


def image_dataset_from_directory(
    directory: Folder,
    labels: Labels = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    batch_size: int | None = 32,
    image_size: int | Sequence[int] = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    data_format: str | None = None,
    format: str = "tf",  # noqa: A002 - Keras' name
    verbose: bool = True,
) -> FolderDataset | list[FolderDataset]:
    """Returns batches of the images in a folder, read and resized by threads while the device computes.

    The images of each class lie in a folder of their own. Unlike in Keras, each pass shuffles all files again.

    Args:
        directory: The folder.
        labels: "inferred" for the index of the class, None for no labels, or an integer for each file in the order of
            the sorted paths.
        label_mode: "int" for int32, "categorical" for one-hot rows, "binary" for float32 [B, 1], or None for no labels.
        class_names: The folders of classes to use, in the order of their labels; by default all, sorted.
        color_mode: "grayscale", "rgb" or "rgba".
        batch_size: Images in a batch; None yields single images.
        image_size: Height and width of the images, or one number for both.
        shuffle: Whether to shuffle; otherwise the files are sorted.
        seed: The seed of the shuffling and of the split.
        validation_split: The part of the files that is kept for validation.
        subset: "training", "validation", or "both" for a list of two data sets.
        interpolation: "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian" or "mitchellcubic".
        follow_links: Whether to follow symbolic links to folders.
        crop_to_aspect_ratio: Whether to crop the middle of an image first, so that it is not distorted.
        pad_to_aspect_ratio: Whether to pad an image with zeros first, so that it is not distorted.
        data_format: "channels_last" or "channels_first"; by default that of the program.
        format: "tf" or "grain"; both give the same data set of NumPy arrays, which has the methods of tf.data.
        verbose: Whether to print the number of files.

    Shapes: float32 images [B, H, W, C], and labels [B], [B, 1] or [B, classes].

    Raises:
        ValueError: If an argument is invalid, or there is no image.
        ModuleNotFoundError: If pillow is not installed.

    References:
        Keras, `keras.utils.image_dataset_from_directory`.
    """
    require_extra("PIL", "image_dataset_from_directory needs")
    check_choice("color_mode", color_mode, tuple(MODES))
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if crop_to_aspect_ratio and pad_to_aspect_ratio:
        raise ValueError(
            "Pictures are cropped or padded to the aspect ratio, got True for both; choose one of "
            "`crop_to_aspect_ratio` and `pad_to_aspect_ratio`."
        )
    height, width = (image_size, image_size) if isinstance(image_size, int) else _two(image_size)
    is_first = config.resolve_data_format(data_format) == "channels_first"

    def load(path: str) -> np.ndarray:
        array = _fitted(_pixels(path, color_mode), (height, width), crop_to_aspect_ratio, pad_to_aspect_ratio)
        resized = resize(array, (height, width), interpolation)
        return resized.transpose(2, 0, 1) if is_first else resized

    found = _Files(directory, labels, label_mode, class_names, IMAGES, shuffle, seed, follow_links, verbose)
    return found.datasets(load, stack, batch_size, validation_split, subset, format)


def text_dataset_from_directory(
    directory: Folder,
    labels: Labels = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    batch_size: int | None = 32,
    max_length: int | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    follow_links: bool = False,
    format: str = "tf",  # noqa: A002 - Keras' name
    verbose: bool = True,
) -> FolderDataset | list[FolderDataset]:
    """Returns batches of the texts (.txt, UTF-8) in a folder; see `image_dataset_from_directory` for other arguments.

    Args:
        directory: The folder.
        labels: As for images.
        label_mode: As for images.
        class_names: As for images.
        batch_size: Texts in a batch; None yields single texts.
        max_length: Characters of a text that are kept; None keeps all.
        shuffle: Whether to shuffle; otherwise the files are sorted.
        seed: The seed of the shuffling and of the split.
        validation_split: The part of the files that is kept for validation.
        subset: "training", "validation", or "both" for a list of two data sets.
        follow_links: Whether to follow symbolic links to folders.
        format: "tf" or "grain"; both give the same data set.
        verbose: Whether to print the number of files.

    Shapes: texts [B] as an array of Python strings.

    Raises:
        ValueError: If an argument is invalid, or there is no text.

    References:
        Keras, `keras.utils.text_dataset_from_directory`.
    """
    if max_length is not None:
        check_positive("max_length", max_length)

    def load(path: str) -> str:
        with open(path, encoding="utf-8") as file:
            return file.read()[:max_length]

    found = _Files(directory, labels, label_mode, class_names, (".txt",), shuffle, seed, follow_links, verbose)
    return found.datasets(load, stack, batch_size, validation_split, subset, format)


def audio_dataset_from_directory(
    directory: Folder,
    labels: Labels = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    batch_size: int | None = 32,
    sampling_rate: int | None = None,
    output_sequence_length: int | None = None,
    ragged: bool = False,
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    follow_links: bool = False,
    verbose: bool = True,
) -> FolderDataset | list[FolderDataset]:
    """Returns batches of the audio clips (.wav) in a folder; see `image_dataset_from_directory` for other arguments.

    Args:
        directory: The folder.
        labels: As for images.
        label_mode: As for images.
        class_names: As for images.
        batch_size: Clips in a batch; None yields single clips.
        sampling_rate: Samples per second to convert to; None keeps the rate of each file.
        output_sequence_length: Samples to cut or pad to; None pads to the longest clip of the batch.
        ragged: Only False: there are no ragged arrays.
        shuffle: Whether to shuffle; otherwise the files are sorted.
        seed: The seed of the shuffling and of the split.
        validation_split: The part of the files that is kept for validation.
        subset: "training", "validation", or "both" for a list of two data sets.
        follow_links: Whether to follow symbolic links to folders.
        verbose: Whether to print the number of files.

    Shapes: float32 clips [B, T, C] from -1 to 1.

    Raises:
        ValueError: If an argument is invalid, there is no clip, or a file has no 8-, 16- or 32-bit samples.

    References:
        Keras, `keras.utils.audio_dataset_from_directory`.
    """
    if ragged:
        raise ValueError("`ragged` must be False, got True: pad the sounds; leave it out.")
    for name, value in (("sampling_rate", sampling_rate), ("output_sequence_length", output_sequence_length)):
        if value is not None:
            check_positive(name, value)

    def load(path: str) -> np.ndarray:
        sound = read_wav(path, sampling_rate)
        return sound if output_sequence_length is None else _padded(sound, output_sequence_length)

    def collate(sounds: tuple[np.ndarray, ...]) -> np.ndarray:
        longest = max(len(sound) for sound in sounds)
        return np.stack([_padded(sound, longest) for sound in sounds])

    found = _Files(directory, labels, label_mode, class_names, (".wav",), shuffle, seed, follow_links, verbose)
    return found.datasets(load, collate, batch_size, validation_split, subset, "tf")


class _Files:
    """The files of a folder, in Keras' order, with their labels; the arguments are those of the functions above."""

    def __init__(
        self,
        directory: Folder,
        labels: Labels,
        label_mode: str | None,
        class_names: Sequence[str] | None,
        suffixes: tuple[str, ...],
        shuffle: bool,
        seed: int | None,
        follow_links: bool,
        verbose: bool,
    ):
        self.directory, self.suffixes, self.shuffle, self.seed = os.fspath(directory), suffixes, shuffle, seed
        check_choice("label_mode", label_mode, ("int", "categorical", "binary", None))
        if labels is None or label_mode is None:
            labels = label_mode = None
        self.label_mode = label_mode
        if isinstance(labels, str) and labels != "inferred":
            raise ValueError(f"`labels` must be 'inferred', None or a list of integers, got {labels!r}; choose one.")
        if class_names is not None and labels != "inferred":
            raise ValueError(
                f"`class_names` needs labels='inferred', got labels={_described(labels)}; leave one of them out."
            )
        if not os.path.isdir(self.directory):
            raise ValueError(f"`directory` must be a folder, got {self.directory!r}; check the path.")
        folders = self._folders(class_names) if labels == "inferred" else [""]
        self.paths: list[str] = []
        indices: list[int] = []
        for index, folder in enumerate(folders):
            inside = [*_files(os.path.join(self.directory, folder), suffixes, follow_links)]
            self.paths += inside
            indices += [index] * len(inside)
        self.class_names: list[str] | None = None
        self.labels: np.ndarray | None = None
        if labels == "inferred":
            self.class_names, self.labels = folders, np.array(indices, np.int32)
        elif labels is not None:
            if len(labels) != len(self.paths):
                raise ValueError(
                    f"`labels` must have one label for each of the {len(self.paths)} files, got {len(labels)}; "
                    "order them like the sorted paths."
                )
            self.class_names, self.labels = (
                [str(label) for label in sorted({int(label) for label in labels})],
                np.array(labels, np.int32),
            )
        if label_mode == "binary" and len(self.class_names or ()) != 2:
            raise ValueError(
                f"label_mode='binary' needs two classes, got {len(self.class_names or ())}; use 'int' or 'categorical'."
            )
        if verbose:
            classes = "" if self.class_names is None else f" belonging to {len(self.class_names)} classes"
            print(f"Found {len(self.paths)} files{classes}.")
        if shuffle:
            # NumPy's legacy generator, as Keras uses it: the same seed gives the same split.
            self.seed = int(np.random.randint(1_000_000)) if seed is None else seed  # noqa: NPY002
            order = np.arange(len(self.paths))
            np.random.RandomState(self.seed).shuffle(order)  # noqa: NPY002
            self.paths = [self.paths[i] for i in order]
            self.labels = None if self.labels is None else self.labels[order]
        self.has_seed = seed is not None

    def _folders(self, class_names: Sequence[str] | None) -> list[str]:
        """Returns the folders of the classes, in the order of the labels."""
        entries = sorted(entry.name for entry in os.scandir(self.directory) if entry.is_dir())
        folders = [name for name in entries if not name.startswith(".")]
        if class_names is None:
            return folders
        missing = [name for name in class_names if name not in folders]
        if missing:
            raise ValueError(
                f"`class_names` must be folders of {self.directory}, {', '.join(map(repr, folders))}, got "
                f"{missing[0]!r}; correct the name."
            )
        return list(class_names)

    def datasets(
        self,
        load: Callable[[str], Any],
        collate: Callable[[tuple[Any, ...]], Any],
        batch_size: int | None,
        validation_split: float | None,
        subset: str | None,
        container: str,
    ) -> FolderDataset | list[FolderDataset]:
        """Returns the data set of a subset, or the list of both."""
        check_choice("format", container, ("tf", "grain"))
        check_choice("subset", subset, (*SUBSETS, None))
        if batch_size is not None:
            check_positive("batch_size", batch_size)
        if (validation_split is None) != (subset is None):
            raise ValueError(
                f"`validation_split` and `subset` belong together, got validation_split={validation_split} and "
                f"subset={subset!r}; pass both or neither."
            )
        if validation_split is not None and not 0 < validation_split < 1:
            raise ValueError(f"`validation_split` must be between 0 and 1, got {validation_split}; pass, e.g., 0.2.")
        if validation_split is not None and self.shuffle and not self.has_seed:
            raise ValueError(
                "A split of shuffled files needs a `seed`, so that training and validation do not overlap, got None; "
                "pass an integer."
            )
        # As in Keras, the validation data of subset="both" keeps its order, and a validation set alone is shuffled.
        seed = self.seed if self.shuffle else None
        if validation_split is None:
            return self._part(slice(None), load, collate, batch_size, seed)
        kept = int(validation_split * len(self.paths))
        cut = len(self.paths) - kept
        if subset in ("training", "both"):
            print(f"Using {cut} files for training.")
        if subset in ("validation", "both"):
            print(f"Using {kept} files for validation.")
        parts = {"training": slice(None, cut), "validation": slice(cut, None)}
        if subset != "both":
            return self._part(parts[str(subset)], load, collate, batch_size, seed)
        return [
            self._part(part, load, collate, batch_size, None if name == "validation" else seed)
            for name, part in parts.items()
        ]

    def _part(
        self,
        part: slice,
        load: Callable[[str], Any],
        collate: Callable[[tuple[Any, ...]], Any],
        batch_size: int | None,
        seed: int | None,
    ) -> FolderDataset:
        paths = self.paths[part]
        if not paths:
            raise ValueError(
                f"A data set needs files ending in {', '.join(self.suffixes)}, got none in {self.directory} for this "
                "subset; check the folder."
            )
        labels = None if self.labels is None else self._encoded(self.labels[part])
        return FolderDataset(paths, labels, load, collate, batch_size, seed, self.class_names)

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        if self.label_mode == "binary":
            return labels[:, None].astype(np.float32)
        if self.label_mode == "categorical":
            return (labels[:, None] == np.arange(len(self.class_names or ()))).astype(np.float32)
        return labels


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raises unless an argument has one of some values."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}; choose one.")


def _described(labels: Labels) -> str:
    return "None" if labels is None else f"a list of {len(labels)}"


def _two(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"`image_size` must be two positive integers (height, width), got {size!r}; correct it.")
    return size[0], size[1]


def _files(folder: str, suffixes: tuple[str, ...], follow_links: bool) -> Iterator[str]:
    """Yields the files of a folder and the folders in it, sorted as in Keras."""
    for root, _, names in sorted(os.walk(folder, followlinks=follow_links), key=lambda found: found[0]):
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                yield os.path.join(root, name)


def _pixels(path: str, color_mode: str) -> np.ndarray:
    """Returns the pixels [H, W, C] of the first frame of a file."""
    array = np.asarray(load_img(path, color_mode))
    return array[..., None] if array.ndim == 2 else array


def _fitted(array: np.ndarray, size: tuple[int, int], crop: bool, pad: bool) -> np.ndarray:
    """Crops the middle of an image to the aspect ratio of a size, or pads the image to it with zeros."""
    (h, w), (height, width) = array.shape[:2], size
    if crop:
        kept_h, kept_w = max(min(h, w * height // width), 1), max(min(w, h * width // height), 1)
        top, left = (h - kept_h) // 2, (w - kept_w) // 2
        return array[top : top + kept_h, left : left + kept_w]
    if pad:
        top, left = (max(h, w * height // width) - h) // 2, (max(w, h * width // height) - w) // 2
        return np.pad(array, ((top, top), (0, 0), (0, 0)) if top else ((0, 0), (left, left), (0, 0)))
    return array


def _padded(sound: np.ndarray, length: int) -> np.ndarray:
    """Cuts a clip [T, C] to a length, or pads it with zeros."""
    return np.pad(sound[:length], ((0, max(0, length - len(sound))), (0, 0)))
