/** A small chart writer: lines over a logarithmic x axis, as one inline SVG string. */

export interface Series {
  name: string;
  points: readonly { x: number; y: number }[];
  dashed?: boolean;
  /** Points without a line between them. */
  dots?: boolean;
}

export interface ChartOptions {
  title: string;
  xLabel: string;
  yLabel: string;
  logY?: boolean;
  xText?: (x: number) => string;
}

const width = 720;
const height = 360;
const margin = { left: 70, right: 200, top: 36, bottom: 48 };
const palette = ["#1b6ca8", "#c8553d", "#3d8361", "#7b5ea7", "#b08900", "#4f5d75", "#00838f", "#ad1457"];

export const escapeText = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => (c === "&" ? "&amp;" : c === "<" ? "&lt;" : c === ">" ? "&gt;" : "&quot;"));

const compact = (value: number): string => {
  if (value >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (value >= 1e3) return `${+(value / 1e3).toPrecision(3)}k`;
  return `${+value.toPrecision(3)}`;
};

/** Ticks at 1, 2 and 5 times powers of ten, or at powers of two where those are the data. */
function linearTicks(max: number): number[] {
  const raw = max / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) ?? raw;
  return Array.from({ length: Math.floor(max / step) + 1 }, (_, i) => i * step);
}

export function lineChart(series: readonly Series[], options: ChartOptions): string {
  const points = series.flatMap((s) => s.points);
  if (points.length === 0) return "";
  const xs = [...new Set(points.map((p) => p.x))].sort((a, b) => a - b);
  const [x0, x1] = [Math.log2(xs[0] as number), Math.log2(xs.at(-1) as number)];
  const yMax = Math.max(...points.map((p) => p.y)) * 1.08;
  const yMin = options.logY ? Math.min(...points.map((p) => p.y)) / 1.3 : 0;
  const plotWidth = width - margin.left - margin.right;
  const plotHeight = height - margin.top - margin.bottom;
  const px = (x: number): number => margin.left + (x1 === x0 ? 0.5 : (Math.log2(x) - x0) / (x1 - x0)) * plotWidth;
  const share = (y: number): number =>
    options.logY ? Math.log(y / yMin) / Math.log(yMax / yMin) : (y - yMin) / Math.max(yMax - yMin, 1e-12);
  const py = (y: number): number => margin.top + (1 - share(y)) * plotHeight;
  const parts: string[] = [];
  const yTicks = options.logY
    ? Array.from({ length: 12 }, (_, i) => 10 ** (Math.floor(Math.log10(yMin)) + i)).filter((y) => y >= yMin && y <= yMax)
    : linearTicks(yMax);
  for (const y of yTicks) {
    parts.push(`<line x1="${margin.left}" x2="${margin.left + plotWidth}" y1="${py(y)}" y2="${py(y)}" stroke="#ddd"/>`);
    parts.push(`<text x="${margin.left - 8}" y="${py(y) + 4}" text-anchor="end">${compact(y)}</text>`);
  }
  const every = Math.ceil(xs.length / 10);
  xs.forEach((x, i) => {
    if (i % every === 0 || i === xs.length - 1) {
      const label = escapeText((options.xText ?? compact)(x));
      parts.push(`<text x="${px(x)}" y="${margin.top + plotHeight + 18}" text-anchor="middle">${label}</text>`);
    }
  });
  series.forEach((line, i) => {
    const colour = palette[i % palette.length];
    const path = [...line.points].sort((a, b) => a.x - b.x).map((p) => `${px(p.x).toFixed(1)},${py(p.y).toFixed(1)}`);
    const dash = line.dashed ? ' stroke-dasharray="5 4"' : "";
    if (!line.dots) parts.push(`<polyline points="${path.join(" ")}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>`);
    for (const p of line.points) {
      parts.push(`<circle cx="${px(p.x).toFixed(1)}" cy="${py(p.y).toFixed(1)}" r="3" fill="${colour}"/>`);
    }
    const y = margin.top + 8 + i * 18;
    const x = width - margin.right + 14;
    parts.push(`<line x1="${x}" x2="${x + 18}" y1="${y}" y2="${y}" stroke="${colour}" stroke-width="2"${dash}/>`);
    parts.push(`<text x="${x + 24}" y="${y + 4}">${escapeText(line.name)}</text>`);
  });
  const middle = margin.top + plotHeight / 2;
  return [
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeText(options.title)}" font-family="sans-serif" font-size="12">`,
    `<text x="${margin.left}" y="20" font-size="14" font-weight="bold">${escapeText(options.title)}</text>`,
    ...parts,
    `<text x="${margin.left + plotWidth / 2}" y="${height - 8}" text-anchor="middle">${escapeText(options.xLabel)}</text>`,
    `<text transform="translate(16 ${middle}) rotate(-90)" text-anchor="middle">${escapeText(options.yLabel)}</text>`,
    "</svg>",
  ].join("\n");
}
