import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Prints where each record of a dead-letter topic came from, as Spring for Apache Kafka encodes it: a partition is an
 * int and offsets and times are longs, as ByteBuffer writes them; all else is text.
 *
 * <pre>ReadAsSpring SERVERS TOPIC COUNT</pre>
 */
public class ReadAsSpring {
    public static void main(String[] arguments) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("group.id", "reads-" + arguments[1]);
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        int left = Integer.parseInt(arguments[2]);
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(arguments[1]));
            while (left > 0) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    out.println(origin(record.headers()));
                    left--;
                }
            }
        }
    }

    static String origin(Headers headers) {
        return String.join(
                " ",
                text(headers, "original-topic"),
                Integer.toString(bytes(headers, "original-partition").getInt()),
                Long.toString(bytes(headers, "original-offset").getLong()),
                Long.toString(bytes(headers, "original-timestamp").getLong()),
                TimestampType.forName(text(headers, "original-timestamp-type")).name(),
                text(headers, "exception-message"));
    }

    static String text(Headers headers, String name) {
        return StandardCharsets.UTF_8.decode(bytes(headers, name)).toString();
    }

    static ByteBuffer bytes(Headers headers, String name) {
        return ByteBuffer.wrap(headers.lastHeader("kafka_dlt-" + name).value());
    }
}
