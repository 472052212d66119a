// Numbers and times as people read them. Not known is a dash, never a zero.
const DASH = "–";
const plain = new Map<number, Intl.NumberFormat>();

export function num(value: number | null | undefined, digits = 2): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  let format = plain.get(digits);
  if (!format) plain.set(digits, (format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })));
  return format.format(value).replace("-", "−");
}

export function count(value: number | null | undefined): string {
  return num(value, 0);
}

export function signed(value: number | null | undefined, digits = 2): string {
  const text = num(value, digits);
  return value !== null && value !== undefined && value > 0 ? `+${text}` : text;
}

export function percent(value: number | null | undefined, digits = 2): string {
  return value === null || value === undefined ? DASH : `${num(value * 100, digits)} %`;
}

// A price with as many digits as it needs: five significant ones, at least two decimals above 1.
export function price(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  const size = Math.abs(value);
  return num(value, size >= 1_000 ? 2 : size >= 1 ? 4 : size >= 0.01 ? 5 : 7);
}

// A quantity as it was sent: at most eight significant digits, no trailing zeros.
export function quantity(value: number | null | undefined): string {
  return value === null || value === undefined ? DASH : String(Number(value.toPrecision(8)));
}

export function time(ms: number | null | undefined): string {
  return ms ? new Date(ms).toISOString().slice(11, 19) : DASH;
}

export function moment(ms: number | null | undefined): string {
  return ms ? new Date(ms).toISOString().slice(0, 19).replace("T", " ") : DASH;
}

export function span(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || ms < 0) return DASH;
  const s = Math.floor(ms / 1_000);
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor((s % 3_600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3_600)} h`;
}

export function micros(value: number | null | undefined): string {
  if (value === null || value === undefined) return DASH;
  if (value < 1_000) return `${num(value, value < 10 ? 1 : 0)} µs`;
  if (value < 1_000_000) return `${num(value / 1_000, value < 10_000 ? 1 : 0)} ms`;
  return `${num(value / 1_000_000, 1)} s`;
}

export function bytes(value: number | null | undefined): string {
  return value === null || value === undefined ? DASH : `${num(value / 1_048_576, 0)} MiB`;
}

export function words(name: string): string {
  return name.replaceAll("_", " ");
}

export function tone(value: number | null | undefined): string {
  return value === null || value === undefined || value === 0 ? "" : value > 0 ? "up" : "down";
}
