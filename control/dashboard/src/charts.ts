// lightweight-charts in the colours of the page; follows light and dark.
import { AreaSeries, CandlestickSeries, ColorType, createChart, createSeriesMarkers, HistogramSeries, type IChartApi, type IPriceLine, type ISeriesApi, LineSeries, type SeriesMarker, type Time, type UTCTimestamp } from "lightweight-charts";
import type { Candle } from "./types.ts";

const at = (ms: number): UTCTimestamp => Math.floor(ms / 1_000) as UTCTimestamp;

function colours(): Record<"text" | "line" | "up" | "down" | "accent" | "card", string> {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => style.getPropertyValue(name).trim();
  return { text: read("--dim"), line: read("--line"), up: read("--up"), down: read("--down"), accent: read("--accent"), card: read("--card") };
}

function base(place: HTMLElement): { chart: IChartApi; restyle: (more: (c: ReturnType<typeof colours>) => void) => () => void } {
  const options = () => {
    const c = colours();
    return {
      layout: { background: { type: ColorType.Solid, color: "transparent" } as const, textColor: c.text, attributionLogo: false, fontFamily: "system-ui, sans-serif" },
      grid: { vertLines: { color: c.line }, horzLines: { color: c.line } },
      rightPriceScale: { borderColor: c.line },
      timeScale: { borderColor: c.line, timeVisible: true, secondsVisible: false },
    };
  };
  const chart = createChart(place, { autoSize: true, ...options() });
  return {
    chart,
    restyle(more) {
      const apply = () => { chart.applyOptions(options()); more(colours()); };
      apply();
      const dark = matchMedia("(prefers-color-scheme: dark)");
      window.addEventListener("themechange", apply);
      dark.addEventListener("change", apply);
      return () => { window.removeEventListener("themechange", apply); dark.removeEventListener("change", apply); };
    },
  };
}

export function areaChart(place: HTMLElement): { set: (points: [number, number][]) => void; remove: () => void } {
  const { chart, restyle } = base(place);
  const series = chart.addSeries(AreaSeries, { lineWidth: 2, priceLineVisible: false });
  const off = restyle((c) => series.applyOptions({ lineColor: c.accent, topColor: `${c.accent}55`, bottomColor: `${c.accent}05` }));
  return {
    set(points) {
      const seen = new Map(points.map(([ms, value]) => [at(ms), value]));
      series.setData([...seen].sort((a, b) => a[0] - b[0]).map(([time, value]) => ({ time, value })));
      chart.timeScale().fitContent();
    },
    remove() { off(); chart.remove(); },
  };
}

export interface Mark { ms: number; side: "buy" | "sell"; text: string }
export interface Line { price: number; title: string; kind: "up" | "down" | "accent" }

export interface PriceChart {
  candles: (items: Candle[]) => void;
  marks: (items: Mark[]) => void;
  lines: (items: Line[]) => void;
  pane: (name: string, points: [number, number | null][]) => void;
  remove: () => void;
}

export function priceChart(place: HTMLElement): PriceChart {
  const { chart, restyle } = base(place);
  const prices = chart.addSeries(CandlestickSeries, { borderVisible: false });
  const volume = chart.addSeries(HistogramSeries, { priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false });
  chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.85, bottom: 0 } });
  const markers = createSeriesMarkers(prices, []);
  let lines: IPriceLine[] = [], kept: { lines: Line[]; marks: Mark[] } = { lines: [], marks: [] };
  let pane: ISeriesApi<"Line"> | null = null;
  let first = true, newest: Candle | undefined;
  const drawLines = () => {
    const c = colours();
    lines.forEach((line) => prices.removePriceLine(line));
    lines = kept.lines.map((line) => prices.createPriceLine({ price: line.price, title: line.title, color: c[line.kind], lineWidth: 1, lineStyle: 2, axisLabelVisible: true }));
    markers.setMarkers(kept.marks.map((mark): SeriesMarker<Time> => ({ time: at(mark.ms), position: mark.side === "buy" ? "belowBar" : "aboveBar", shape: mark.side === "buy" ? "arrowUp" : "arrowDown", color: mark.side === "buy" ? c.up : c.down, text: mark.text })));
  };
  const off = restyle((c) => {
    prices.applyOptions({ upColor: c.up, downColor: c.down, wickUpColor: c.up, wickDownColor: c.down });
    volume.applyOptions({ color: `${c.text}44` });
    pane?.applyOptions({ color: c.accent });
    drawLines();
  });
  return {
    candles(items) {
      newest = items.at(-1);
      const size = newest?.close ?? 1;
      const precision = size >= 1_000 ? 2 : size >= 1 ? 4 : size >= 0.01 ? 5 : 7;
      prices.applyOptions({ priceFormat: { type: "price", precision, minMove: 10 ** -precision } });
      prices.setData(items.map((item) => ({ time: at(item.open_ms), open: item.open, high: item.high, low: item.low, close: item.close })));
      volume.setData(items.map((item) => ({ time: at(item.open_ms), value: item.volume ?? 0 })));
      if (first && items.length) { first = false; chart.timeScale().setVisibleLogicalRange({ from: items.length - 150, to: items.length + 6 }); }
    },
    marks(items) { kept = { ...kept, marks: items.toSorted((a, b) => a.ms - b.ms) }; drawLines(); },
    lines(items) { kept = { ...kept, lines: items }; drawLines(); },
    pane(name, points) {
      if (pane) { chart.removeSeries(pane); pane = null; }
      if (!name) return;
      pane = chart.addSeries(LineSeries, { color: colours().accent, lineWidth: 1, title: name, priceLineVisible: false }, 1);
      pane.setData(points.map(([ms, value]) => (value === null ? { time: at(ms) } : { time: at(ms), value })));
      chart.panes()[1]?.setStretchFactor(0.35);
    },
    remove() { off(); chart.remove(); },
  };
}
