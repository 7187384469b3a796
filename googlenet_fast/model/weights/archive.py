"""Find damage in the zip archives of `torch.save`, whose checksums `torch.load` ignores."""

import os
import zipfile
from typing import BinaryIO

_CHUNK = 1 << 20


def check_archive(file: BinaryIO) -> None:
    """Compare every record of an archive with its CRC-32, and go back to the start of the file.

    Reads what the file holds once, in chunks of 1 MiB.

    Raises:
        zipfile.BadZipFile: a record is damaged or compressed, which `torch.save` never does. Damage
            to the directory may raise other exceptions.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise zipfile.BadZipFile("it is compressed")
        if sum(record.file_size for record in records) > size:
            raise zipfile.BadZipFile("its records overlap")
        for record in records:
            with archive.open(record) as content:
                while content.read(_CHUNK):
                    pass
    file.seek(0)
