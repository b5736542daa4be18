// How far two pictures are apart.

// In words, such as "Pixel-equal." Both must be of this server.
export async function compared(one, other) {
  await Promise.all([one.decode(), other.decode()]);
  if (one.naturalWidth !== other.naturalWidth || one.naturalHeight !== other.naturalHeight)
    return `Different sizes: ${one.naturalWidth} x ${one.naturalHeight} and ${other.naturalWidth} x ${other.naturalHeight}.`;
  const [first, second] = [pixels(one), pixels(other)];
  let [sum, changed] = [0, 0];
  for (let at = 0; at < first.length; at += 4) {
    const apart = Math.abs(first[at] - second[at]) + Math.abs(first[at + 1] - second[at + 1]) + Math.abs(first[at + 2] - second[at + 2]);
    sum += apart;
    changed += apart > 0;
  }
  if (!changed) return "Pixel-equal.";
  const count = first.length / 4;
  return `${((100 * changed) / count).toFixed(1)} % of the pixels differ, by ${(sum / count / 3).toFixed(2)} of 255 on average.`;
}

function pixels(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
}
